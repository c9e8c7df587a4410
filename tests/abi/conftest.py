# SPDX-License-Identifier: Apache-2.0
"""What the tests of the C interface may ask for."""

from __future__ import annotations

import pytest
from compiling import Compile, build
from vendor_stub import DRIVEN, RELEASES, Stub
from vendor_stub import build as build_stub


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Return a function (source, name, *flags) that compiles a C or C++ source; skips without a compiler."""
    folder = tmp_path_factory.mktemp("abi")
    return lambda source, name, *flags: build(source, folder / name, *flags)


@pytest.fixture(scope="session", params=DRIVEN)
def stub(request: pytest.FixtureRequest, compile_c: Compile, tmp_path_factory: pytest.TempPathFactory) -> Stub:
    """Return a library of each generation that is driven."""
    generation = request.param
    return build_stub(compile_c, tmp_path_factory.mktemp(generation), generation, f"version: {RELEASES[generation]}")

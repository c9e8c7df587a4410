# SPDX-License-Identifier: Apache-2.0
"""What the tests of the C interface may ask for."""

from __future__ import annotations

import pytest
from compiling import Compile, build


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Return a function (source, name, *flags) that compiles a C or C++ source; skips without a compiler."""
    folder = tmp_path_factory.mktemp("abi")
    return lambda source, name, *flags: build(source, folder / name, *flags)

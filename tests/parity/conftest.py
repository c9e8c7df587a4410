# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from models import Converter


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converter:
    """Return converted(source, dtype) -> path of a .rkllm file."""
    return Converter(tmp_path_factory.mktemp("models"))

# SPDX-License-Identifier: Apache-2.0
"""What every test file may ask for: the repository, the shared data beside it, the small model kept in it."""

from __future__ import annotations

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference models and tokenizers, or skip where there is none."""
    folder = REPO.parent / "shared"
    if not (folder / "reference").is_dir():
        pytest.skip("needs the shared data beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """Return the random two-layer Llama checkpoint that is kept in the repository."""
    return REPO / "tests" / "data" / "tiny-llama"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out unless -m says which tests to run."""
    if config.getoption("markexpr"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]

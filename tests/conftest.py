# SPDX-License-Identifier: Apache-2.0
"""What every test file may ask for: the repository, the shared data beside it, the small model kept in it."""

from __future__ import annotations

import json
import shutil
import signal
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


@pytest.fixture(scope="session")
def tiny_model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small model as a w8a8 .rkllm file, with a context so long that tests find a run of it under way."""
    import rkllm_ext

    folder = tmp_path_factory.mktemp("tiny")
    source = folder / "checkpoint"
    shutil.copytree(tiny_llama, source)
    config = json.loads((source / "config.json").read_text())
    config["max_position_embeddings"] = 65536
    (source / "config.json").write_text(json.dumps(config))
    rkllm_ext.convert(source, folder / "tiny.rkllm", "w8a8")
    return folder / "tiny.rkllm"


def pytest_configure() -> None:
    """Let Ctrl-C be what it usually is: a shell starts programs in the background with it ignored, and theirs, too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long or needs special tools, unless -m says which tests to run."""
    if config.getoption("markexpr"):
        return
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in ("slow", "cross", "ray"))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]

# SPDX-License-Identifier: Apache-2.0
"""What the tests of the vendor toolkit's class share, and those of gdq."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from rkllm_ext.api import RKLLM


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let models be built where the test can see what is left of them."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def loaded(own_temporary_folder: Path, tiny_llama: Path) -> RKLLM:
    """Return the toolkit with the small model loaded and nothing built."""
    model = RKLLM()
    assert model.load_huggingface(model=str(tiny_llama)) == 0
    return model


@pytest.fixture(scope="session")
def few_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset that is learned in a moment."""
    path = tmp_path_factory.mktemp("dataset") / "texts.json"
    path.write_text(json.dumps([{"input": "the river and the stone " * 3, "target": "under the moon " * 3}] * 12))
    return path

# SPDX-License-Identifier: Apache-2.0
"""PyTorch pickles are read tensor by tensor, and never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rkllm_ext
from rkllm_ext.errors import ModelFileError
from rkllm_ext.readers import open_checkpoint

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

needs_torch = pytest.mark.skipif(torch is None, reason="needs the extra 'torch'")


@pytest.fixture
def pickled(tiny_llama: Path, tmp_path: Path) -> Path:
    """Return the small model with its weights as a pickle."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "pickled"))
    with open_checkpoint(tiny_llama) as source:
        state = {name: torch.from_numpy(source.load(name)).bfloat16() for name in source.tensor_names}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def state_of(folder: Path) -> Any:
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


@needs_torch
def test_a_pickle_gives_the_model_that_safetensors_give(pickled: Path, tiny_llama: Path, tmp_path: Path) -> None:
    with open_checkpoint(pickled) as found, open_checkpoint(tiny_llama) as expected:
        assert set(found.tensor_names) == set(expected.tensor_names)
        for name in expected.tensor_names:
            assert (found.shape(name), found.dtype(name)) == (expected.shape(name), "BF16")
            assert np.array_equal(found.load(name), expected.load(name))
            assert found.load_codes(name) is None
        assert set(found.files) >= {"pytorch_model.bin", "config.json"}
    ids = np.arange(30, dtype=np.int32)
    logits = []
    for source in (pickled, tiny_llama):
        rkllm_ext.convert(source, tmp_path / f"{source.name}.rkllm", "fp32")
        with rkllm_ext.LLM(tmp_path / f"{source.name}.rkllm", max_context_len=64) as llm:
            logits.append(llm.logits(ids))
    assert np.array_equal(*logits)


@needs_torch
def test_shards_are_read_through_their_index(pickled: Path, tiny_llama: Path) -> None:
    state = state_of(pickled)
    names = list(state)
    placed = {name: f"part-{i % 2}.bin" for i, name in enumerate(names)}
    for part in ("part-0.bin", "part-1.bin"):
        torch.save({name: state[name] for name in names if placed[name] == part}, pickled / part)
    (pickled / "pytorch_model.bin").unlink()
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    with open_checkpoint(pickled) as found, open_checkpoint(tiny_llama) as expected:
        assert all(np.array_equal(found.load(name), expected.load(name)) for name in expected.tensor_names)
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {**placed, "more": "part-0.bin"}}))
    with pytest.raises(ModelFileError, match=r"part-0\.bin: tensor 'more', which .* places here, is missing"):
        open_checkpoint(pickled)


@needs_torch
def test_a_file_of_an_old_torch_is_read(pickled: Path) -> None:
    expected = state_of(pickled)
    torch.save(expected, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with open_checkpoint(pickled) as found:
        assert np.array_equal(found.load("model.norm.weight"), expected["model.norm.weight"].float().numpy())


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["HOSTILE_FOLDER"],)


@needs_torch
@pytest.mark.parametrize("old_form", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(
    pickled: Path, old_form: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path / "was run"))
    torch.save({"w": Hostile()}, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=not old_form)
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin: .* wants to run code .* refused"):
        open_checkpoint(pickled)
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Hostile()}))
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
        open_checkpoint(pickled)
    assert not (tmp_path / "was run").exists()


@needs_torch
def test_damage_is_refused(pickled: Path) -> None:
    path = pickled / "pytorch_model.bin"
    content = path.read_bytes()
    for damaged in (b"", b"PK", content[:100], content[: len(content) // 2], b"\x80\x02]q\x00." + bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
            open_checkpoint(pickled)


@needs_torch
def test_what_is_no_dictionary_of_tensors_is_refused(pickled: Path) -> None:
    for wrong in ([torch.zeros(2)], {}, {"epoch": 3}, {"model": {"w": torch.zeros(2)}}):
        torch.save(wrong, pickled / "pytorch_model.bin")
        with pytest.raises(ModelFileError, match="is not a dictionary of tensors"):
            open_checkpoint(pickled)


@needs_torch
def test_types_that_are_no_weights_are_named(pickled: Path) -> None:
    state = state_of(pickled)
    state["model.norm.weight"] = torch.zeros(64, dtype=torch.int32)
    torch.save(state, pickled / "pytorch_model.bin")
    with open_checkpoint(pickled) as found, pytest.raises(ModelFileError, match="is of type int32; F64, F32"):
        found.load("model.norm.weight")


@needs_torch
def test_safetensors_are_preferred(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "both"))
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    with open_checkpoint(folder) as found:
        assert "model.safetensors" in found.files


def test_without_torch_the_error_names_the_extra(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\3\4")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rkllm_ext.readers import open_checkpoint\n"
        "from rkllm_ext.errors import UnsupportedModelError\n"
        "try: open_checkpoint(sys.argv[1])\n"
        "except UnsupportedModelError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert "need the extra 'torch': pip install 'rkllm_ext[torch]'; or save the model as safetensors" in done.stdout

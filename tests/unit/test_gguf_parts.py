# SPDX-License-Identifier: Apache-2.0
"""A model in several GGUF files, as the gguf package writes them, is the model in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf_bytes import U16, gguf, key, tensor
from gguf_models import write_gguf

import rkllm_ext
from rkllm_ext.errors import ModelFileError
from rkllm_ext.readers import open_checkpoint


def part(number: int, count: int, name: str = "w", **values: Any) -> bytes:
    """Return a part with one tensor of one weight."""
    numbers = {"split.no": number, "split.count": count, "split.tensors.count": count, **values}
    return gguf([key(each, U16, value) for each, value in numbers.items()], [tensor(name, [1])], bytes(4))


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("first_is_small", [False, True])
def test_parts_are_the_model(tiny_llama: Path, tmp_path: Path, first_is_small: bool) -> None:
    write_gguf(tiny_llama, tmp_path / "whole.gguf")
    folder = tmp_path / "parts"
    folder.mkdir()
    write_gguf(tiny_llama, folder / "m.gguf", split_max_tensors=7, small_first_shard=first_is_small)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"m-{i:05}-of-{len(names):05}.gguf" for i in range(1, len(names) + 1)]
    assert len(names) == 3 + first_is_small
    for path in (folder, folder / names[0], folder / names[-1]):
        with open_checkpoint(tmp_path / "whole.gguf") as whole, open_checkpoint(path) as parts:
            assert list(parts.config) == list(whole.config)
            assert all(np.array_equal(value, whole.config[name]) for name, value in parts.config.items())
            assert sorted(parts.tensor_names) == sorted(whole.tensor_names)
            for name in whole.tensor_names:
                assert (parts.shape(name), parts.dtype(name)) == (whole.shape(name), whole.dtype(name))
                assert np.array_equal(parts.load(name), whole.load(name))
                assert np.array_equal(parts.load_stored(name), whole.load_stored(name))
            assert len(parts.files) == len(names)
            assert parts.fingerprint() != whole.fingerprint()
            with pytest.raises(ModelFileError, match="tensor 'nothing' is not in the checkpoint"):
                parts.shape("nothing")


def test_parts_convert_to_the_same_tensors(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "whole.gguf")
    write_gguf(tiny_llama, tmp_path / "m.gguf", split_max_tensors=4)
    rkllm_ext.convert(tmp_path / "whole.gguf", tmp_path / "whole.rkllm", "w4a16_g32")
    (first,) = tmp_path.glob("m-00001-of-*.gguf")
    rkllm_ext.convert(first, tmp_path / "parts.rkllm", "w4a16_g32")
    tensors = [
        {each.name: bytes(each.data) for each in GGUFReader(tmp_path / f"{name}.rkllm").tensors}
        for name in ("whole", "parts")
    ]
    for each in tensors:
        del each["checksums"]  # that of the header, which names the source
    assert tensors[0] == tensors[1]


def test_a_q4_0_model_in_parts_keeps_its_codes(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "m.gguf", GGMLQuantizationType.Q4_0, split_max_tensors=5)
    (first,) = tmp_path.glob("m-00001-of-*.gguf")
    report = rkllm_ext.convert(first, tmp_path / "m.rkllm", "w4a16_g32")
    assert {row["name"] for row in report.tensors if row.get("lossless")} >= {"blk.1.ffn_down.weight"}


@pytest.mark.parametrize(
    ("files", "opened", "sentence"),
    [
        ({"m-00001-of-00003.gguf": part(0, 3)}, "m-00001-of-00003.gguf", "part m-00002-of-00003.gguf is missing"),
        ({"m.gguf": part(0, 2)}, "m.gguf", "is one of 2 parts of a model, whose names must end in -00001-of-00002"),
        ({"m-00001-of-00003.gguf": part(0, 2)}, "m-00001-of-00003.gguf", "names must end in -00001-of-00002.gguf"),
        (
            {"m-00001-of-00002.gguf": part(0, 2), "m-00002-of-00002.gguf": part(0, 2, "v")},
            "m-00002-of-00002.gguf",
            "m-00002-of-00002.gguf: says split.no 0, split.count 2, which is not part 2 of 2",
        ),
        (
            {"m-00001-of-00002.gguf": part(0, 2), "m-00002-of-00002.gguf": part(1, 2)},
            "m-00001-of-00002.gguf",
            "tensor 'w' is in an earlier part, too",
        ),
        (
            {
                "m-00001-of-00002.gguf": part(0, 2, **{"split.tensors.count": 5}),
                "m-00002-of-00002.gguf": part(1, 2, "v"),
            },
            "m-00001-of-00002.gguf",
            "the 2 parts have 2 tensors, but there should be 5",
        ),
        (
            {"m-00001-of-00002.gguf": part(0, 2), "m-00002-of-00002.gguf": part(1, 2, "v")[:-1]},
            "m-00001-of-00002.gguf",
            "m-00002-of-00002.gguf: tensor 'v' ends 1 bytes past the file",
        ),
        (
            {"m-00001-of-00002.gguf": part(0, 2), "m-00002-of-00002.gguf": part(1, 2, "v"), "n.gguf": part(0, 1)},
            "",
            "holds 3 GGUF files (m-00001-of-00002.gguf, m-00002-of-00002.gguf, n.gguf); give one of them",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, files: dict[str, bytes], opened: str, sentence: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert sentence in refusal(tmp_path / opened)

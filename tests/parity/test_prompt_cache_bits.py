# SPDX-License-Identifier: Apache-2.0
"""What is computed behind a loaded prompt cache has the bits of a full prefill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import random_pairs, write_peft
from models import FORMATS, SHARED, Converter
from numpy.typing import NDArray

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.errors import ModelFileError

LENGTHS = (1, 15, 16, 17, 64, 70)
IDS = np.random.default_rng(5).integers(3, 250, 90).astype(np.int32)
FOLDERS = [f"reference/{name}" for name in ("llama-dynamic", "phi3-longrope", "gemma2", "chatglm3", "qwen", "minicpm3")]


def behind(llm: rkllm_ext.LLM, x: Any, reused: int) -> NDArray[np.float32]:
    """Return the logits behind an input, of which so many positions are to come from a cache."""
    with llm.session() as session:
        assert session.prefill(x, whole=True) == len(session) - reused
        assert session.logits is not None
        return np.array(session.logits)


def check(path: Path, folder: Path, saved: Any, inputs: list[tuple[Any, int]], **settings: Any) -> None:
    """Save an input's state, and compare what follows it in other inputs with a full prefill of them."""
    with rkllm_ext.LLM(path, max_context_len=160, **settings) as llm:
        expected = [behind(llm, x, 0) for x, _ in inputs]
        llm.save_prompt_cache(saved, folder / "cache")
    with rkllm_ext.LLM(path, max_context_len=200, **settings) as llm:
        llm.load_prompt_cache(folder / "cache")
        for (x, reused), logits in zip(inputs, expected):
            np.testing.assert_array_equal(behind(llm, x, reused), logits)


@pytest.mark.parametrize("kv_type", ["f16", "f32", "int8"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_every_format_and_kind_of_kv_cache(
    tiny_llama: Path, converted: Converter, tmp_path: Path, dtype: str, kv_type: str
) -> None:
    groups = {format.name: format.group for format in _rkllm.formats()}
    source = tiny_llama if groups[dtype] <= 64 else SHARED / "reference" / "qwen2-g512-bf16"
    if not source.is_dir():
        pytest.skip("the groups are wider than the small model; the shared data beside the repository has a wider one")
    path = converted(source, dtype)
    other = IDS.copy()
    other[40] += 1
    for n in LENGTHS if source == tiny_llama else (17,):
        inputs = [(IDS[:m], min(n, m - 1)) for m in (1, 16, n, n + 1, 80)]
        check(path, tmp_path, IDS[:n], [*inputs, (other, min(n, 40))], kv_type=kv_type)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: Path(folder).name)
def test_every_kind_of_attention(converted: Converter, tmp_path: Path, folder: str) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip("needs the shared data beside the repository")
    for n in LENGTHS:
        inputs = [(IDS[:m], min(n, m - 1)) for m in (n, 60)]
        check(converted(SHARED / folder, "fp32"), tmp_path, IDS[:n], inputs)


def changed(tiny_llama: Path, folder: Path, **changes: Any) -> Path:
    """Return the small model with changes of its configuration, in fp32."""
    shutil.copytree(tiny_llama, folder / "checkpoint")
    config = json.loads((tiny_llama / "config.json").read_text())
    (folder / "checkpoint" / "config.json").write_text(json.dumps({**config, **changes}))
    rkllm_ext.convert(folder / "checkpoint", folder / "changed.rkllm", "fp32")
    return folder / "changed.rkllm"


def test_lengths_with_other_rotary_angles_do_not_reuse_each_other(tiny_llama: Path, tmp_path: Path) -> None:
    factors = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
    path = changed(
        tiny_llama, tmp_path, rope_scaling={"type": "longrope", "original_max_position_embeddings": 48, **factors}
    )
    check(path, tmp_path, IDS[:40], [(IDS[:48], 40), (IDS[:49], 0), (IDS, 0)])
    check(path, tmp_path, IDS[:60], [(IDS[:48], 0), (IDS[:49], 48), (IDS, 60)])


def test_dynamic_angles_serve_their_own_length_only(tiny_llama: Path, tmp_path: Path) -> None:
    path = changed(
        tiny_llama, tmp_path, max_position_embeddings=48, rope_scaling={"rope_type": "dynamic", "factor": 2.0}
    )
    check(path, tmp_path, IDS[:40], [(IDS[:48], 40), (IDS[:49], 0), (IDS, 0)])
    check(path, tmp_path, IDS[:60], [(IDS[:40], 0), (IDS[:60], 59), (IDS, 0)])


def test_a_run_that_outgrows_the_original_length_behind_a_cache(tiny_llama: Path, tmp_path: Path) -> None:
    factors = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
    path = changed(
        tiny_llama, tmp_path, rope_scaling={"type": "longrope", "original_max_position_embeddings": 48, **factors}
    )
    greedy: dict[str, Any] = {"temperature": 0.0, "repeat_penalty": 1.0, "ignore_eos": True, "max_new_tokens": 40}
    with rkllm_ext.LLM(path, max_context_len=160, reuse_prefix=False) as llm:
        expected = llm.generate(IDS[:40], save_prompt_cache=tmp_path / "cache", **greedy).token_ids.tolist()
        llm.load_prompt_cache(tmp_path / "cache")
        assert llm.generate(IDS[:40], **greedy).token_ids.tolist() == expected
        assert llm.perf is not None and llm.perf.reused_tokens == 39


def test_embeddings_are_known_by_their_values(tiny_llama: Path, converted: Converter, tmp_path: Path) -> None:
    rows = np.random.default_rng(6).standard_normal((40, 64)).astype(np.float32)
    other = rows.copy()
    other[10, 3] = np.nextafter(other[10, 3], np.float32(9))
    check(converted(tiny_llama, "w8a8"), tmp_path, rows[:30], [(rows, 30), (rows[:30], 29), (other, 10), (IDS, 0)])


def test_images_in_the_prefix(tiny_llama: Path, converted: Converter, tmp_path: Path) -> None:
    image = np.random.default_rng(7).standard_normal((5, 64)).astype(np.float32)
    path = converted(tiny_llama, "w8a8")
    with rkllm_ext.LLM(path, max_context_len=64) as llm:
        first, longer = (
            rkllm_ext.Multimodal(f"see <image> here{end}", each) for end, each in (("", image), (" again", image))
        )
        other = rkllm_ext.Multimodal("see <image> here", image + 1)
        begin = len(llm.tokenize("see ", add_bos=True))
        whole = begin + 5 + len(llm.tokenize(" here"))
    check(path, tmp_path, first, [(first, whole - 1), (longer, whole), (other, begin)])


def test_states_of_adapters_are_kept_apart(tiny_llama: Path, converted: Converter, tmp_path: Path) -> None:
    source = write_peft(tmp_path / "adapter", random_pairs({"model.layers.0.self_attn.k_proj": (32, 64)}, rank=4))
    rkllm_ext.convert_lora(source, tiny_llama, tmp_path / "a.rkllm")
    path = converted(tiny_llama, "w8a8")
    with rkllm_ext.LLM(path, max_context_len=128, reuse_prefix=False) as llm:
        llm.load_lora(tmp_path / "a.rkllm", "a")
        expected = [llm.generate(IDS, lora=name, seed=1).token_ids.tolist() for name in ("a", None)]
        llm.save_prompt_cache(IDS[:50], tmp_path / "adapted", lora="a")
        llm.save_prompt_cache(IDS[:30], tmp_path / "plain")
        llm.load_prompt_cache(tmp_path / "adapted", "adapted")
        llm.load_prompt_cache(tmp_path / "plain", "plain")
        for name, tokens, reused in (("a", expected[0], 50), (None, expected[1], 30)):
            assert llm.generate(IDS, lora=name, seed=1).token_ids.tolist() == tokens
            assert llm.perf is not None and llm.perf.reused_tokens == reused
    for scale in (None, 0.5):
        with rkllm_ext.LLM(path, max_context_len=128) as llm:
            if scale is not None:
                llm.load_lora(tmp_path / "a.rkllm", "a", scale=scale)
            with pytest.raises(ModelFileError, match=r"LoRA adapter that is not loaded, or not with that scale; load"):
                llm.load_prompt_cache(tmp_path / "adapted")

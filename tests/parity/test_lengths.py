# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies that depend on the length: what happens where a sequence outgrows the original one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import Converter
from numpy.typing import NDArray

import rkllm_ext

ORIGINAL = 48
FACTORS = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
Changed = Callable[..., Path]


@pytest.fixture
def changed(tiny_llama: Path, tmp_path: Path, converted: Converter) -> Changed:
    """Return changed(**config) -> the small model with changes of its configuration, converted to fp32."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for path in tiny_llama.iterdir():
            (folder / path.name).symlink_to(path)
        config = json.loads((tiny_llama / "config.json").read_text())
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        out = tmp_path / f"{folder.name}.rkllm"
        rkllm_ext.convert(folder, out, "fp32")
        return out

    return make


def answer(path: Path, ids: NDArray[np.int32], n: int) -> list[int]:
    with rkllm_ext.LLM(path, max_context_len=160, temperature=0.0, repeat_penalty=1.0) as llm:
        return llm.generate(ids, max_new_tokens=n, ignore_eos=True).token_ids.tolist()


def logits(path: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    with rkllm_ext.LLM(path, max_context_len=160) as llm:
        return llm.logits(ids)


@pytest.fixture
def ids() -> NDArray[np.int32]:
    return np.random.default_rng(8).integers(0, 300, 150).astype(np.int32)


def with_longrope(changed: Changed) -> Path:
    return changed(rope_scaling={"type": "longrope", "original_max_position_embeddings": ORIGINAL, **FACTORS})


def test_longrope_up_to_its_original_length_is_rotation_by_the_short_factors(changed: Changed, ids: Any) -> None:
    # Linear scaling by a factor is longrope whose factors are all the same, but for the magnitude.
    same = {"short_factor": [4.0] * 8, "long_factor": [2.0] * 8, "attention_factor": 1.0}
    path = changed(rope_scaling={"type": "longrope", "original_max_position_embeddings": ORIGINAL, **same})
    short, long = (changed(rope_scaling={"type": "linear", "factor": factor}) for factor in (4.0, 2.0))
    assert np.array_equal(logits(path, ids[:ORIGINAL]), logits(short, ids[:ORIGINAL]))
    assert np.array_equal(logits(path, ids[: ORIGINAL + 1]), logits(long, ids[: ORIGINAL + 1]))
    assert np.array_equal(logits(path, ids), logits(long, ids))


def test_longrope_multiplies_cosines_and_sines(changed: Changed, ids: Any) -> None:
    # Queries and keys are both multiplied, so scores grow by the square.
    context = json.loads((Path(__file__).parents[1] / "data/tiny-llama/config.json").read_text())[
        "max_position_embeddings"
    ]
    magnitude = math.sqrt(1 + math.log(context / ORIGINAL) / math.log(ORIGINAL))
    same = {"short_factor": [1.0] * 8, "long_factor": [1.0] * 8, "original_max_position_embeddings": ORIGINAL}
    derived = changed(rope_scaling={"type": "longrope", **same})
    given = changed(rope_scaling={"type": "longrope", **same, "attention_factor": magnitude})
    assert np.array_equal(logits(derived, ids), logits(given, ids))
    assert not np.allclose(logits(derived, ids), logits(changed(rope_scaling=None), ids), atol=1e-4)


@pytest.mark.parametrize("n", [1, 20, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1])
def test_longrope_recomputes_cached_keys_when_decoding_outgrows_the_original_length(
    changed: Changed, ids: Any, n: int
) -> None:
    """Every token, before and after the switch, is the best one of a prefill over everything before it."""
    path = with_longrope(changed)
    tokens = answer(path, ids[:n], 80)
    with rkllm_ext.LLM(path, max_context_len=160) as llm:
        whole = np.concatenate([ids[:n], np.int32(tokens)])
        for i in range(n, n + 80):
            assert llm.logits(whole[:i])[-1].argmax() == whole[i], f"token {i}"


def test_longrope_recomputes_embeddings_as_well(changed: Changed, ids: Any, tiny_llama: Path) -> None:
    from rkllm_ext.readers import open_checkpoint

    path = with_longrope(changed)
    with open_checkpoint(tiny_llama) as checkpoint:
        rows = np.ascontiguousarray(checkpoint.load("model.embed_tokens.weight")[ids[:20]])
    with rkllm_ext.LLM(path, max_context_len=160, temperature=0.0, repeat_penalty=1.0) as llm:
        by_rows = llm.generate(rows, max_new_tokens=80, ignore_eos=True).token_ids.tolist()
    assert by_rows == answer(path, ids[:20], 80)


def test_latent_attention_caches_the_latent_and_not_the_heads(shared: Path, converted: Converter) -> None:
    folder = shared / "reference" / "minicpm3"
    config = json.loads((folder / "config.json").read_text())
    with rkllm_ext.LLM(converted(folder, "fp32"), max_context_len=64) as llm:
        latent, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
        assert llm.info.kv_bytes == config["num_hidden_layers"] * 64 * (2 * latent + rotated) * 4
        expanded = config["num_attention_heads"] * (2 * config["qk_nope_head_dim"] + rotated)
        assert 2 * latent + rotated < expanded


def doubling(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> Path:
    from rkllm_ext import arch
    from rkllm_ext.arch.llama import LLAMA

    family = LLAMA.but(constants={"rope_doubling": 1, "rope_original_context": ORIGINAL})
    with monkeypatch.context() as patch:
        patch.setattr(arch, "families", lambda: (family,))
        return changed()


def test_doubling_ntk_enlarges_the_base_by_powers_of_two(
    changed: Changed, ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plain = doubling(changed, monkeypatch), changed()
    assert np.array_equal(logits(path, ids[:ORIGINAL]), logits(plain, ids[:ORIGINAL]))
    for n, alpha in {ORIGINAL + 1: 3, 2 * ORIGINAL: 3, 2 * ORIGINAL + 1: 7, 150: 7}.items():
        enlarged = changed(rope_theta=10000.0 * alpha ** (16 / 14))
        assert np.abs(logits(path, ids[:n]) - logits(enlarged, ids[:n])).max() < 1e-4, n


def test_doubling_ntk_keeps_the_base_of_the_prompt(changed: Changed, ids: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = doubling(changed, monkeypatch)
    assert answer(path, ids[:40], 60) == answer(changed(), ids[:40], 60)


def test_logn_multiplies_queries_beyond_its_length(changed: Changed, ids: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rkllm_ext import arch
    from rkllm_ext.arch.llama import LLAMA

    plain = changed()
    family = LLAMA.but(constants={"logn_context": ORIGINAL})
    monkeypatch.setattr(arch, "families", lambda: (family,))
    path = changed()
    found, without = logits(path, ids), logits(plain, ids)
    assert np.array_equal(found[:ORIGINAL], without[:ORIGINAL])
    assert np.abs(found[ORIGINAL:] - without[ORIGINAL:]).max(axis=1).min() > 0

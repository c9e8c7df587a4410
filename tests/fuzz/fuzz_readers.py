# SPDX-License-Identifier: Apache-2.0
"""Fuzz what Python reads: `python fuzz_readers.py [--seconds S] [--seed N]`; needs the package installed.

Sound sources (a Hugging Face directory, GGUF files, adapters of both kinds) get one file damaged, byte by byte or,
where it is JSON, value by value, and are converted. Only an RKLLMError may come out, or a file that opens or is refused
by one. A case is its seed: the same number, the same damage.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "reference"))

from adapters import random_pairs, write_gguf, write_peft
from make_model_corpus import ADAPTED, LLAMA, LLAMA_SHAPES, checkpoint

import rkllm_ext

TESTS = Path(__file__).resolve().parent.parent
_NUMBERS = [0, 1, 2, 7, 8, 32, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
_VALUES: list[Any] = [None, True, False, "", "x", "\x00", "é" * 40, [], {}, [[]], [None], [-1], {"a": {}}]
_VALUES += [-1, 0, 1, 3, 2**31, 2**53, 2**63, 2**64, -(2**63), 1e308, -1e-308, 0.5, float("nan"), float("inf")]


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with a few changes of the kinds that break readers."""
    data = bytearray(content)
    # Headers decide most; a change there is as probable as anywhere.
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at = draw.randrange(min(len(data), draw.choice((64, 1024, 1 << 30))) or 1) if data else 0
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 2:
            data[at:at] = draw.randbytes(draw.choice((1, 4, 8, 100)))
        elif kind == 3:
            del data[at : at + draw.choice((1, 4, 8, 200))]
        elif kind == 4:
            del data[draw.randrange(len(data) + 1) :]
        elif kind == 5:
            size = draw.choice((1, 2, 4, 8))
            data[at : at + size] = (draw.choice(_NUMBERS) & (256**size - 1)).to_bytes(size, "little")
        else:
            piece = data[at : at + draw.choice((4, 32, 300))]
            where = draw.randrange(len(data) + 1)
            data[where:where] = piece
    return bytes(data)


def _places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    for key in keys:
        found.append((node, key))
        _places(node[key], found)
    return found


def disordered(content: bytes, draw: random.Random) -> bytes:
    """Return JSON with a few values replaced, removed or swapped."""
    tree = json.loads(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        places = _places(tree, [])
        if not places:
            break
        node, key = draw.choice(places)
        kind = draw.randrange(5)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[str(draw.choice(_VALUES))] = node.pop(key)
        elif kind == 2:
            other, other_key = draw.choice(places)
            node[key], other[other_key] = other[other_key], node[key]
            if _is_cyclic(tree):
                return content
        else:
            node[key] = copy.deepcopy(draw.choice(_VALUES))
    return json.dumps(tree).encode()


def _is_cyclic(tree: Any) -> bool:
    try:
        json.dumps(tree)
    except (ValueError, RecursionError):
        return True
    return False


@dataclass(frozen=True)
class Source:
    """Something that is converted, and the files of it that may be damaged."""

    path: Path
    files: tuple[str, ...]  # below path; "" is path itself
    convert: Callable[[Path, Path], object]


class Sources:
    """Sound sources in a folder."""

    def __init__(self, folder: Path) -> None:
        base = checkpoint(folder / "llama", LLAMA, LLAMA_SHAPES)
        modules = [f"model.layers.0.self_attn.{name}" for name in ADAPTED]
        pairs = random_pairs({name: LLAMA_SHAPES[f"{name}.weight"] for name in modules}, 2)
        short = {name.replace("model.layers.", "blk.").replace("self_attn.q_proj", "attn_q"): pair
                 for name, pair in pairs.items() if name.endswith("q_proj")}  # fmt: skip
        peft = write_peft(folder / "peft", pairs)
        gguf = write_gguf(folder / "adapter.gguf", short, 4.0)
        model = self._gguf_model(folder / "model.gguf")

        def adapter(path: Path, out: Path) -> object:
            return rkllm_ext.convert_lora(path, base, out)

        def whole(path: Path, out: Path) -> object:
            return rkllm_ext.convert(path, out, "fp16")

        self.all = {
            "safetensors": Source(base, ("model.safetensors",), whole),
            "config": Source(base, ("config.json",), whole),
            "tokenizer": Source(base, ("tokenizer.json",), whole),
            "gguf": Source(model, ("",), whole),
            "peft": Source(peft, ("adapter_config.json", "adapter_model.safetensors"), adapter),
            "gguf-adapter": Source(gguf, ("",), adapter),
        }
        for source in self.all.values():  # what is sound converts
            source.convert(source.path, folder / "sound.rkllm")

    @staticmethod
    def _gguf_model(path: Path) -> Path:
        from gguf_models import write_gguf as write_model

        write_model(TESTS / "data" / "tiny-llama", path)
        return path


def run_case(source: Source, seed: int, folder: Path) -> str:
    """Convert a damaged copy and say what came out: "converted", "opened" or an exception's name."""
    draw = random.Random(seed)
    name = draw.choice(source.files)
    copy, out = folder / source.path.name, folder / "out.rkllm"
    if source.path.is_dir():
        shutil.copytree(source.path, copy, dirs_exist_ok=True)
    else:
        shutil.copy(source.path, copy)
    victim = copy / name if name else copy
    content = victim.read_bytes()
    by_value = name.endswith(".json") and draw.random() < 0.8
    victim.write_bytes((disordered if by_value else damaged)(content, draw))
    out.unlink(missing_ok=True)
    try:
        source.convert(copy, out)
    except rkllm_ext.RKLLMError as error:
        assert str(error), "an error without a sentence"
        assert not out.exists(), "a failed conversion left a file"
        return type(error).__name__
    if source.convert.__name__ == "adapter":
        return "converted"
    try:
        rkllm_ext.LLM(out, max_context_len=8, n_threads=1).close()
    except rkllm_ext.RKLLMError as error:
        return f"converted, then {type(error).__name__}"
    return "opened"


def fuzz(kinds: list[str], first: int, until: Callable[[int], bool]) -> Counter[str]:
    """Run cases of each kind in turn while until(cases so far) is false, and count what came out.

    Raises
    ------
    Exception
        Whatever came out that is no RKLLMError, with the case's kind and seed.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(temporary)
        sources = Sources(folder).all
        (folder / "case").mkdir()
        seed = first
        while not until(seed - first):
            for kind in kinds or list(sources):
                try:
                    outcomes[f"{kind}: {run_case(sources[kind], seed, folder / 'case')}"] += 1
                except Exception as error:
                    raise AssertionError(f"the case {kind} {seed} gave {type(error).__name__}: {error}") from error
            seed += 1
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1, help="the first case")
    parser.add_argument("--kind", action="append", default=[])
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    outcomes = fuzz(given.kind, given.seed, lambda _: time.monotonic() > end)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8} {outcome}")
    print(f"{sum(outcomes.values()):8} cases")


if __name__ == "__main__":
    main()

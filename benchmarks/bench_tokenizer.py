# SPDX-License-Identifier: Apache-2.0
"""How fast are the tokenizers, beside the `tokenizers` package?  pytest benchmarks/bench_tokenizer.py

The printed figure "MB/s" of each row is what to compare; ours and theirs run on one thread. Needs the shared data
beside the repository.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests" / "unit"))
SHARED = REPO.parent / "shared"
FAMILIES = ["llama2", "llama3", "qwen2", "smollm2"]
TEXTS = ["frankenstein.txt", "reviews-zh.txt", "python-stdlib.py.txt"]

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the repository"),
]


def text_of(name: str) -> str:
    return (SHARED / "text" / name).read_text("utf-8")[:400_000]


def ours(family: str, folder: Path) -> Any:
    from tokenizer_file import write_tokenizer

    from rkllm_ext._rkllm import Tokenizer
    from rkllm_ext.tokenizer import TokenTable

    table = TokenTable.from_directory(SHARED / "tokenizers" / family)
    return Tokenizer(write_tokenizer(folder / "t.rkllm", table.metadata()))


def measured(benchmark: Any, run: Any, n_bytes: int) -> None:
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["MB/s"] = round(n_bytes / benchmark.stats.stats.min / 1e6, 1)
    print(f"  {benchmark.extra_info['MB/s']} MB/s")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_encode(benchmark: Any, tmp_path: Path, family: str, text: str) -> None:
    content = text_of(text)
    with ours(family, tmp_path) as tokenizer:
        measured(benchmark, lambda: tokenizer.encode(content), len(content.encode()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_encode_with_the_tokenizers_package(benchmark: Any, family: str, text: str) -> None:
    library = pytest.importorskip("tokenizers")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = library.Tokenizer.from_file(str(SHARED / "tokenizers" / family / "tokenizer.json"))
    content = text_of(text)
    measured(benchmark, lambda: tokenizer.encode(content, add_special_tokens=False), len(content.encode()))


@pytest.mark.parametrize("family", FAMILIES)
def test_decode(benchmark: Any, tmp_path: Path, family: str) -> None:
    content = text_of(TEXTS[0])
    with ours(family, tmp_path) as tokenizer:
        ids = tokenizer.encode(content)
        measured(benchmark, lambda: tokenizer.decode(ids), len(content.encode()))


@pytest.mark.parametrize("family", FAMILIES)
def test_open(benchmark: Any, tmp_path: Path, family: str) -> None:
    from rkllm_ext._rkllm import Tokenizer

    ours(family, tmp_path).close()
    benchmark.pedantic(lambda: Tokenizer(tmp_path / "t.rkllm").close(), rounds=5, warmup_rounds=1)

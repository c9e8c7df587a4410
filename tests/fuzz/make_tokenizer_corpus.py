# SPDX-License-Identifier: Apache-2.0
"""Write the seeds of the tokenizer fuzzer: `python make_tokenizer_corpus.py DIR`; needs the package installed.

One small file for each kind of vocabulary, normalizer and split that the runtime knows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))

from tokenizer_file import added, tiny_byte_level, tiny_sentencepiece, tokenizer_bytes

from rkllm_ext.tokenizer import TokenTable

Row = tuple[str, str, Any]


def rows_of(source: dict[str, Any]) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(json.dumps(source), "utf-8")
        return TokenTable.from_directory(folder).metadata()


def replaced(rows: list[Row], **values: str) -> list[Row]:
    """Return the rows with other kinds: model, normalizer, split."""
    return [(name, kind, values.get(name.rpartition(".")[2], value) if name.startswith("rkllm") else value)
            for name, kind, value in rows]  # fmt: skip


def seeds() -> dict[str, list[Row]]:
    by_bytes, by_pieces = tiny_byte_level(), tiny_sentencepiece()
    by_bytes["added_tokens"].append(added(261, "é x", normalized=True, lstrip=True, single_word=True))
    by_pieces["added_tokens"].append(added(266, "q ", rstrip=True, normalized=True))
    pieces, scores = rows_of(by_pieces), [-float(index) for index in range(267)]
    found = {
        split: replaced(rows_of(by_bytes), split=split, normalizer=normalizer)
        for split, normalizer in (("gpt2", "none"), ("digits_gpt2", "none"), ("llama3", "none"), ("qwen2", "nfc"))
    }
    found.update({name: replaced(pieces, normalizer=name) for name in ("mark", "mark_prepend", "mark_first")})
    found["score"] = [*replaced(pieces, model="score_bpe"), ("tokenizer.ggml.scores", "[f32]", scores)]
    found["unigram"] = [*found["score"], ("rkllm.tokenizer.prefix_ids", "[u32]", [1, 2])]
    found["unigram"] = replaced(found["unigram"], model="unigram")
    found["score"] += [("rkllm.tokenizer.alias_ids", "[u32]", [5]), ("rkllm.tokenizer.alias_texts", "[string]", ["q"])]
    by_score = replaced(rows_of(by_bytes), model="byte_score_bpe", split="qwen2")
    found["byte_score"] = [*by_score, ("tokenizer.ggml.scores", "[f32]", scores[:262])]
    return found


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in seeds().items():
        (folder / name).write_bytes(tokenizer_bytes(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

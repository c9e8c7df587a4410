# SPDX-License-Identifier: Apache-2.0
"""The rules and tokens of a tokenizer, as the runtime knows them, and their keys in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError

Key = tuple[str, str, Any]

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Flags of added tokens, as docs/format.md numbers them.
SPECIAL, LSTRIP, RSTRIP, NORMALIZED, SINGLE_WORD, IN_MODEL = 1, 2, 4, 8, 16, 32


def no_merges() -> NDArray[np.uint32]:
    """Return the empty list of merges."""
    return np.zeros((0, 2), np.uint32)


@dataclass
class Vocabulary:
    """Tokens and rules.

    Attributes
    ----------
    model : str
        "byte_bpe", "byte_score_bpe", "rank_bpe", "score_bpe" or "unigram".
    normalizer, split : str
        As docs/format.md lists them.
    tokens : list of str
        By id, as the source spells them; "" where an id has no token.
    types : list of int
        ``tokenizer.ggml.token_type`` of each.
    scores : list of float
        For the models by score only, one for each token.
    merges : uint32 [n, 2]
        Pairs of ids, the first rank first.
    added : dict
        Ids of the added tokens with their flags.
    aliases : dict
        Ids of renamed tokens with the spelling that is looked for in a normalized text.
    prefix : list of int
        What a prompt begins with, where that is not just the begin token.
    unknown : int or None
        The token of characters that have none.
    """

    model: str
    normalizer: str
    split: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: NDArray[np.uint32] = field(default_factory=no_merges)
    added: dict[int, int] = field(default_factory=dict)
    aliases: dict[int, str] = field(default_factory=dict)
    prefix: list[int] = field(default_factory=list)
    unknown: int | None = None
    ignore_merges: bool = False
    fuse_unknown: bool = False
    strip_space: bool = False
    space_special: bool = False
    clean_up: bool = False

    @property
    def scored(self) -> bool:
        """Whether scores and not merges say what is joined."""
        return self.model in ("byte_score_bpe", "score_bpe", "unigram")

    def id_of(self, text: str) -> int | None:
        """Return the id of the token with this spelling."""
        try:
            return self.tokens.index(text)
        except ValueError:
            return None

    def add(self, index: int, text: str, flags: int, where: str) -> None:
        """Make a token an added one; ids beyond the table extend it.

        Raises
        ------
        ModelFileError
            The id has another spelling already, or lies far beyond the table.
        """
        if not 0 <= index < len(self.tokens) + (1 << 16) or not text:
            raise ModelFileError(f"{where}: added token {text!r} has the id {index} beside {len(self.tokens)} tokens")
        missing = index + 1 - len(self.tokens)
        if missing > 0:
            self.tokens.extend([""] * missing)
            self.types.extend([UNUSED] * missing)
            if self.scored:
                self.scores.extend([0.0] * missing)
        if self.tokens[index] not in ("", text):
            raise ModelFileError(f"{where}: token {index} is both {self.tokens[index]!r} and {text!r}")
        if self.tokens[index]:
            flags |= 0 if self.scored else IN_MODEL
        self.tokens[index] = text
        if self.types[index] in (NORMAL, UNUSED, USER_DEFINED):
            self.types[index] = CONTROL if flags & SPECIAL else USER_DEFINED
        self.added[index] = flags

    def rename(self, index: int, text: str) -> None:
        """Give a user-defined token another text; its old one stays an alias that is looked for."""
        if 0 <= index < len(self.tokens) and self.types[index] == USER_DEFINED and self.tokens[index] not in ("", text):
            self.aliases[index] = self.tokens[index]
            self.tokens[index] = ""

    def keys(self) -> list[Key]:
        """Return the keys of a file that hold the vocabulary (docs/format.md, "Tokenizer")."""
        rows: list[Key] = [
            ("tokenizer.ggml.model", "string", "gpt2" if self.model.startswith("byte") else "llama"),
            ("rkllm.tokenizer.model", "string", self.model),
            ("rkllm.tokenizer.normalizer", "string", self.normalizer),
            ("rkllm.tokenizer.split", "string", self.split),
            ("rkllm.tokenizer.ignore_merges", "bool", self.ignore_merges),
            ("rkllm.tokenizer.fuse_unknown", "bool", self.fuse_unknown),
            ("rkllm.tokenizer.strip_space", "bool", self.strip_space),
            ("rkllm.tokenizer.space_special", "bool", self.space_special),
            ("rkllm.tokenizer.clean_up", "bool", self.clean_up),
            ("tokenizer.ggml.tokens", "[string]", self.tokens),
            ("tokenizer.ggml.token_type", "[i32]", self.types),
        ]
        if self.scored:
            rows.append(("tokenizer.ggml.scores", "[f32]", self.scores))
        else:
            rows.append(("rkllm.tokenizer.merges", "[u32]", self.merges.ravel().tolist()))
        ids = sorted(self.added)
        rows.append(("rkllm.tokenizer.added_ids", "[u32]", ids))
        rows.append(("rkllm.tokenizer.added_flags", "[u32]", [self.added[index] for index in ids]))
        if self.aliases:
            rows.append(("rkllm.tokenizer.alias_ids", "[u32]", list(self.aliases)))
            rows.append(("rkllm.tokenizer.alias_texts", "[string]", list(self.aliases.values())))
        if self.prefix:
            rows.append(("rkllm.tokenizer.prefix_ids", "[u32]", self.prefix))
        if self.unknown is not None:
            rows.append(("tokenizer.ggml.unknown_token_id", "u32", self.unknown))
        return rows


def merge_pairs(pairs: list[tuple[str, str]], ids: dict[str, int], where: str) -> NDArray[np.uint32]:
    """Return merges as pairs of ids.

    Raises
    ------
    ModelFileError
        A part, or what the parts become, is not in the vocabulary.
    """
    found: list[int] = []
    for rank, (left, right) in enumerate(pairs):
        first, second = ids.get(left), ids.get(right)
        if first is None or second is None or left + right not in ids:
            raise ModelFileError(f"{where}: merge {rank} ({left!r} {right!r}) has a part or a result without a token")
        found += first, second
    return np.array(found, np.uint32).reshape(-1, 2)


def check_texts(tokens: list[str], where: str) -> None:
    """Refuse tokens that are not text."""
    for index, text in enumerate(tokens):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ModelFileError(f"{where}: token {index} is not UTF-8") from None

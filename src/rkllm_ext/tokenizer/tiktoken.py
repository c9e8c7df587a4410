# SPDX-License-Identifier: Apache-2.0
"""qwen.tiktoken: the bytes of each token in base64 and its rank, a line each; Qwen's special tokens follow them."""

from __future__ import annotations

import base64
import binascii

from ..errors import ModelFileError
from .vocabulary import NORMAL, NORMALIZED, SPECIAL, Vocabulary

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205)))

# Byte-level vocabularies spell bytes as characters: those that print as themselves, the others from U+0100 on.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_SPELLING = {**{byte: chr(byte) for byte in _PRINTED}, **{byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}}


def vocabulary_of_tiktoken(data: bytes, where: str) -> tuple[Vocabulary, int]:
    """Return the vocabulary, and the id of the end token.

    Raises
    ------
    ModelFileError
        A line is not a token and its rank, ranks do not count from 0, a token occurs twice, or a byte has none.
    """
    tokens = _tokens(data, where)
    vocabulary = Vocabulary(
        model="byte_score_bpe",
        normalizer="nfc",
        split="qwen2",
        tokens=["".join(_SPELLING[byte] for byte in token) for token in tokens],
        types=[NORMAL] * len(tokens),
        scores=[-float(rank) for rank in range(len(tokens))],
        ignore_merges=True,
    )
    for index, text in enumerate(_SPECIAL, len(tokens)):
        vocabulary.add(index, text, SPECIAL | NORMALIZED, where)
    return vocabulary, len(tokens)


def _tokens(data: bytes, where: str) -> list[bytes]:
    tokens: list[bytes] = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        try:
            token = base64.b64decode(parts[0], validate=True)
        except binascii.Error:
            token = b""
        if len(parts) != 2 or not token or parts[1] != str(len(tokens)).encode():
            raise ModelFileError(f"{where}: line {number} is {line[:60]!r}, expected base64 and the rank {len(tokens)}")
        tokens.append(token)
    if len(set(tokens)) != len(tokens):
        raise ModelFileError(f"{where}: {len(tokens) - len(set(tokens))} of {len(tokens)} tokens occur twice")
    missing = sorted({bytes([byte]) for byte in range(256)}.difference(tokens))
    if missing:
        raise ModelFileError(f"{where}: the byte {missing[0]!r} has no token; all 256 are needed")
    return tokens

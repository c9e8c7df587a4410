# SPDX-License-Identifier: Apache-2.0
"""tokenizer.model: the few fields of a SentencePiece model that matter, read from its protocol buffer."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

from ..errors import ModelFileError, UnsupportedModelError
from .vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary

Value = Union[int, bytes]

_MODELS = {1: "unigram", 2: "score_bpe"}  # TrainerSpec.ModelType
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass
class Piece:
    """One row of the model; ``type`` is numbered as tokenizer.ggml.token_type."""

    text: str = ""
    score: float = 0.0
    type: int = NORMAL


def vocabulary_of_sentencepiece(data: bytes, where: str) -> tuple[Vocabulary, dict[str, int]]:
    """Return the vocabulary, and the ids of its "unk", "bos" and "eos" tokens as far as it has them.

    Raises
    ------
    ModelFileError
        The bytes are not a SentencePiece model.
    UnsupportedModelError
        It is of a kind, or normalizes in a way, that is not known here.
    """
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {3: 1, 40: 0, 41: 1, 42: 2}
    normalizer: dict[int, Value] = {3: 1, 4: 1, 5: 1}
    for number, value in _fields(data, where):
        if number == 1:
            pieces.append(_piece(_message(value, where), where))
        elif number == 2:
            trainer.update(_fields(_message(value, where), where))
        elif number == 3:
            normalizer.update(_fields(_message(value, where), where))
        elif number == 5 and dict(_fields(_message(value, where), where)).get(2):
            raise UnsupportedModelError(f"{where}: a denormalizer is not supported")
    if not pieces:
        raise ModelFileError(f"{where}: no pieces; it is not a SentencePiece model")
    _check_rules(trainer, normalizer, where)
    _check_pieces(pieces, _number(trainer[3], where), where)
    prefix = bool(normalizer[3])
    special = {name: _number(trainer[key], where) for name, key in (("unk", 40), ("bos", 41), ("eos", 42))}
    special = {name: index for name, index in special.items() if 0 <= index < len(pieces)}
    vocabulary = Vocabulary(
        model=_MODELS[_number(trainer[3], where)],
        normalizer="mark_prepend" if prefix else "mark",
        split="none",
        tokens=[piece.text for piece in pieces],
        types=[piece.type for piece in pieces],
        scores=[piece.score for piece in pieces],
        unknown=special.get("unk"),
        fuse_unknown=True,
        strip_space=prefix,
    )
    return vocabulary, special


def _check_rules(trainer: dict[int, Value], normalizer: dict[int, Value], where: str) -> None:
    kind = _number(trainer[3], where)
    if kind not in _MODELS:
        raise UnsupportedModelError(f"{where}: a SentencePiece model of kind {_KINDS.get(kind, kind)} is not supported")
    if trainer.get(24):
        raise UnsupportedModelError(f"{where}: whitespace as a suffix is not supported")
    if normalizer.get(2):
        raise UnsupportedModelError(f"{where}: the normalizer {normalizer.get(1, b'')!r} is not supported")
    if normalizer[4] or not normalizer[5]:
        raise UnsupportedModelError(f"{where}: removing extra whitespaces, or not escaping them, is not supported")


def _check_pieces(pieces: list[Piece], kind: int, where: str) -> None:
    has_bytes = any(piece.type == BYTE for piece in pieces)
    for index, piece in enumerate(pieces):
        if piece.type == UNUSED or (piece.type == USER_DEFINED and _MODELS[kind] == "unigram"):
            name = "user-defined" if piece.type == USER_DEFINED else "unused"
            raise UnsupportedModelError(
                f"{where}: piece {index} ({piece.text!r}) is {name}, which is not supported in a {_KINDS[kind]} model"
            )
        if piece.type not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE):
            raise ModelFileError(f"{where}: piece {index} ({piece.text!r}) has the type {piece.type}")
        if piece.text == "\0" and has_bytes:
            piece.type = UNUSED  # the library takes the byte's token
        if not math.isfinite(piece.score):
            raise ModelFileError(f"{where}: piece {index} ({piece.text!r}) has the score {piece.score}")


def _piece(data: bytes, where: str) -> Piece:
    piece = Piece()
    for number, value in _fields(data, where):
        if number == 1:
            try:
                piece.text = _message(value, where).decode("utf-8")
            except UnicodeDecodeError:
                raise ModelFileError(f"{where}: a piece is not UTF-8") from None
        elif number == 2:
            (piece.score,) = struct.unpack("<f", _message(value, where).ljust(4, b"\0")[:4])
        elif number == 3:
            piece.type = _number(value, where)
    return piece


def _fields(data: bytes, where: str) -> Iterator[tuple[int, Value]]:
    # Field number and value: an int for varints, bytes for everything else.
    pos = 0
    while pos < len(data):
        key, pos = _varint(data, pos, where)
        wire = key & 7
        if wire == 0:
            value, pos = _varint(data, pos, where)
            yield key >> 3, value
            continue
        if wire == 2:
            size, pos = _varint(data, pos, where)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ModelFileError(f"{where}: not a SentencePiece model (wire type {wire} at byte {pos})")
        if size > len(data) - pos:
            raise ModelFileError(f"{where}: ends {size - (len(data) - pos)} bytes too early")
        yield key >> 3, data[pos : pos + size]
        pos += size


def _varint(data: bytes, pos: int, where: str) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if pos >= len(data):
            break
        byte = data[pos]
        pos += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, pos
    raise ModelFileError(f"{where}: not a SentencePiece model (bad number at byte {pos})")


def _number(value: Value, where: str) -> int:
    if not isinstance(value, int):
        raise ModelFileError(f"{where}: not a SentencePiece model (a number is missing)")
    return value - (1 << 64) if value >= 1 << 63 else value  # negative ones fill all 64 bits


def _message(value: Value, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise ModelFileError(f"{where}: not a SentencePiece model (a number where text is expected)")
    return value

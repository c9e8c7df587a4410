# SPDX-License-Identifier: Apache-2.0
"""The token table of a model: vocabulary, begin and end token, from whichever files a checkpoint has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import ModelFileError, UnsupportedModelError
from .gguf_rules import optional_id, vocabulary_of_gguf
from .json_rules import added_token, begin_token, vocabulary_of_json
from .sentencepiece import vocabulary_of_sentencepiece
from .tiktoken import vocabulary_of_tiktoken
from .vocabulary import SPECIAL, UNUSED, Key, Vocabulary

# Classes whose fast version replaces the post-processor by what their configuration says about the begin token.
_CONFIGURED = ("Llama", "CodeLlama")
_INTERNLM2, _CHATGLM, _QWEN = "InternLM2Tokenizer", "ChatGLMTokenizer", "QWenTokenizer"

# ChatGLM3's own tokens, in the order of their ids behind the pieces; they are never read out of a text.
_CHATGLM_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>",
                   "<|observation|>")  # fmt: skip
_CHATGLM_PREFIX = ("[gMASK]", "sop")


class Source(Protocol):
    """What `tokenizer_keys` needs of an open checkpoint."""

    @property
    def kind(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> dict[str, Any]: ...


@dataclass
class TokenTable:
    """A tokenizer, ready to be written.

    Attributes
    ----------
    vocabulary : Vocabulary
        Tokens and rules.
    bos_id, eos_id : int or None
        The begin and the end token.
    add_bos : bool
        Whether a text that is tokenized for the model begins with the begin token.
    """

    vocabulary: Vocabulary
    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool = False

    @property
    def bos(self) -> str | None:
        """The text of the begin token."""
        return None if self.bos_id is None else self.vocabulary.tokens[self.bos_id]

    @property
    def eos(self) -> str | None:
        """The text of the end token."""
        return None if self.eos_id is None else self.vocabulary.tokens[self.eos_id]

    @classmethod
    def from_directory(cls, path: str | Path) -> TokenTable:
        """Read the tokenizer of a Hugging Face directory: tokenizer.json, tokenizer.model or qwen.tiktoken.

        Raises
        ------
        ModelFileError
            There is neither, or a file is damaged.
        UnsupportedModelError
            The tokenizer has a part that is not known here; the message shows it.
        """
        folder = Path(path)
        config = _read_json(folder / "tokenizer_config.json")
        special = {**_read_json(folder / "special_tokens_map.json"), **config}
        if (folder / "tokenizer.json").is_file():
            table = cls._from_json(folder / "tokenizer.json", config)
        elif (folder / "tokenizer.model").is_file():
            table = cls._from_sentencepiece(folder / "tokenizer.model", config)
        elif (folder / "qwen.tiktoken").is_file():
            table = cls._from_tiktoken(folder / "qwen.tiktoken", config)
        else:
            raise ModelFileError(
                f"{folder}: no tokenizer.json, no tokenizer.model and no qwen.tiktoken; a tokenizer is needed"
            )
        begin, end = _token_text(special.get("bos_token")), _token_text(special.get("eos_token"))
        if table.bos_id is None and begin:
            table.bos_id = table.vocabulary.id_of(begin)
        if end:
            table.eos_id = table.vocabulary.id_of(end)
        table.add_bos = table.add_bos and table.bos_id is not None
        return table

    @classmethod
    def _from_json(cls, path: Path, config: dict[str, Any]) -> TokenTable:
        source = _read_json(path)
        vocabulary = vocabulary_of_json(source, str(path))
        begin = begin_token(source.get("post_processor"), str(path))
        if str(config.get("tokenizer_class", "")).startswith(_CONFIGURED):
            add_bos = bool(config.get("add_bos_token", True))
        else:
            add_bos = begin is not None
        return cls(vocabulary, None if begin is None else vocabulary.id_of(begin), None, add_bos)

    @classmethod
    def _from_sentencepiece(cls, path: Path, config: dict[str, Any]) -> TokenTable:
        kind = str(config.get("tokenizer_class") or "LlamaTokenizer")
        if not kind.startswith((*_CONFIGURED, "Gemma", _INTERNLM2, _CHATGLM)):
            raise UnsupportedModelError(f"{path}: a tokenizer.model used by {kind} is not supported")
        vocabulary, special = vocabulary_of_sentencepiece(_read_bytes(path), str(path))
        if kind == _CHATGLM:
            return cls._chatglm(vocabulary, special)
        vocabulary.space_special = vocabulary.clean_up = kind == _INTERNLM2
        for index in special.values():
            vocabulary.add(index, vocabulary.tokens[index], SPECIAL, str(path))
        for number, row in (config.get("added_tokens_decoder") or {}).items():
            where = str(path.parent / "tokenizer_config.json")
            if not isinstance(row, dict) or not number.isdecimal():
                raise ModelFileError(f"{where}: added_tokens_decoder has a row {number!r}: {row!r}")
            index, text, flags = added_token(row, where, int(number))
            vocabulary.rename(index, text)
            vocabulary.add(index, text, flags, where)
        if vocabulary.normalizer == "mark_prepend" and config.get("legacy") is False:
            vocabulary.normalizer = "mark_first"
        return cls(vocabulary, special.get("bos"), special.get("eos"), bool(config.get("add_bos_token", True)))

    @classmethod
    def _chatglm(cls, vocabulary: Vocabulary, special: dict[str, int]) -> TokenTable:
        # As the genuine class decodes: SentencePiece's own tokens are nothing, and these are never skipped.
        for index in special.values():
            vocabulary.tokens[index], vocabulary.types[index] = "", UNUSED
        first = len(vocabulary.tokens)
        vocabulary.tokens += _CHATGLM_TOKENS
        vocabulary.types += [UNUSED] * len(_CHATGLM_TOKENS)
        vocabulary.scores += [0.0] * len(_CHATGLM_TOKENS)
        vocabulary.prefix = [first + _CHATGLM_TOKENS.index(text) for text in _CHATGLM_PREFIX]
        return cls(vocabulary, vocabulary.prefix[0], special.get("eos"), True)

    @classmethod
    def _from_tiktoken(cls, path: Path, config: dict[str, Any]) -> TokenTable:
        kind = config.get("tokenizer_class") or _QWEN
        if kind != _QWEN:
            raise UnsupportedModelError(f"{path}: used by {kind} it is not supported; {_QWEN} is")
        vocabulary, end = vocabulary_of_tiktoken(_read_bytes(path), str(path))
        return cls(vocabulary, None, end, False)

    @classmethod
    def from_gguf(cls, values: Mapping[str, Any]) -> TokenTable:
        """Read the tokenizer from the key/values of a GGUF file. Raises as `vocabulary_of_gguf`."""
        vocabulary, default = vocabulary_of_gguf(values)
        size = len(vocabulary.tokens)
        bos, eos = optional_id(values, "bos", size), optional_id(values, "eos", size)
        add_bos = bool(values.get("tokenizer.ggml.add_bos_token", default)) and bos is not None
        return cls(vocabulary, bos, eos, add_bos)

    def metadata(self) -> list[Key]:
        """Return the keys of the tokenizer in a file: name, type, value (docs/format.md, "Tokenizer")."""
        rows = self.vocabulary.keys()
        if self.bos_id is not None:
            rows.append(("tokenizer.ggml.bos_token_id", "u32", self.bos_id))
        if self.eos_id is not None:
            rows.append(("tokenizer.ggml.eos_token_id", "u32", self.eos_id))
        rows.append(("tokenizer.ggml.add_bos_token", "bool", self.add_bos))
        return rows


def tokenizer_keys(checkpoint: Source) -> list[Key]:
    """Return the tokenizer of an open checkpoint as keys of a file.

    Raises
    ------
    ModelFileError
        The tokenizer is missing or damaged.
    UnsupportedModelError
        The tokenizer has a part that is not known here.
    """
    if checkpoint.kind == "gguf":
        return TokenTable.from_gguf(checkpoint.config).metadata()
    return TokenTable.from_directory(checkpoint.path).metadata()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any]:
    # A file that is not there is an empty object.
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is a JSON {type(value).__name__}, expected an object")
    return value


def _token_text(value: Any) -> str | None:
    # A token is its text, or an object that has it.
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None

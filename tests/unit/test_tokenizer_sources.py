# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of checkpoints: what is known is read, everything else is refused with a sentence that shows it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Callable

import pytest
from tokenizer_file import added, byte_alphabet, tiny_byte_level, tiny_sentencepiece

from rkllm_ext.errors import ModelFileError, UnsupportedModelError
from rkllm_ext.tokenizer import TokenTable

Source = dict[str, Any]


def table_of(folder: Path, source: Source, **config: Any) -> TokenTable:
    (folder / "tokenizer.json").write_text(json.dumps(source), "utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return TokenTable.from_directory(folder)


def keys_of(table: TokenTable) -> dict[str, Any]:
    return {name: value for name, _, value in table.metadata()}


# ---- tokenizer.json ----


def test_the_keys_say_what_the_tokenizer_does(tmp_path: Path) -> None:
    keys = keys_of(table_of(tmp_path, tiny_byte_level(), eos_token="<|end|>"))
    assert keys["rkllm.tokenizer.model"] == "byte_bpe"
    assert keys["rkllm.tokenizer.split"] == "gpt2"
    assert keys["rkllm.tokenizer.normalizer"] == "none"
    assert keys["rkllm.tokenizer.merges"][:4] == [ord("h"), ord("e"), ord("l"), ord("l")]
    assert keys["tokenizer.ggml.tokens"][:256] == byte_alphabet()
    assert (keys["rkllm.tokenizer.added_ids"], keys["rkllm.tokenizer.added_flags"]) == ([260], [1])
    assert keys["tokenizer.ggml.eos_token_id"] == 260
    assert keys["tokenizer.ggml.token_type"][260] == 3
    assert "tokenizer.ggml.bos_token_id" not in keys


def test_the_begin_token_comes_from_post_processor_or_configuration(tmp_path: Path) -> None:
    source = tiny_sentencepiece()
    table = table_of(tmp_path, source)
    assert (table.bos, table.add_bos) == ("<s>", True)
    table = table_of(tmp_path, source, tokenizer_class="LlamaTokenizer", add_bos_token=False, eos_token="</s>")
    assert (table.bos, table.add_bos, table.eos) == ("<s>", False, "</s>")
    source["post_processor"] = None
    config = {"bos_token": {"content": "<s>"}}
    assert table_of(tmp_path, source, **config, tokenizer_class="Other").add_bos is False
    assert table_of(tmp_path, source, **config, tokenizer_class="LlamaTokenizerFast").add_bos is True


def test_merges_may_be_written_in_either_way(tmp_path: Path) -> None:
    source = tiny_byte_level()
    expected = table_of(tmp_path, source).metadata()
    source["model"]["merges"] = [" ".join(pair) for pair in source["model"]["merges"]]
    assert table_of(tmp_path, source).metadata() == expected


def test_a_split_at_spaces_is_nothing_where_spaces_are_marks(tmp_path: Path) -> None:
    source = tiny_sentencepiece()
    expected = table_of(tmp_path, source).metadata()
    step = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    assert table_of(tmp_path, {**source, "pre_tokenizer": step}).metadata() == expected
    for other in ({**step, "invert": True}, {**step, "pattern": {"String": "a"}}):
        with pytest.raises(UnsupportedModelError, match="pre_tokenizer is not supported"):
            table_of(tmp_path, {**source, "pre_tokenizer": other})


def test_ids_without_a_token_are_kept_free(tmp_path: Path) -> None:
    source = tiny_byte_level()
    source["added_tokens"].append(added(270, "<far>"))
    keys = keys_of(table_of(tmp_path, source))
    assert len(keys["tokenizer.ggml.tokens"]) == 271
    assert keys["tokenizer.ggml.tokens"][261:270] == [""] * 9
    assert keys["tokenizer.ggml.token_type"][261:] == [5] * 9 + [4]


UNKNOWN: dict[str, tuple[Callable[[], Source], dict[str, Any], str]] = {
    "model": (tiny_byte_level, {"model": {"type": "Unigram", "vocab": []}}, 'this model is not supported: "Unigram"'),
    "normalizer": (tiny_byte_level, {"normalizer": {"type": "Lowercase"}}, 'normalizer is not supported: {"type": "L'),
    "pre-tokenizer": (tiny_byte_level, {"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer is not supported"),
    "prefix space": (
        tiny_byte_level,
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        '"add_prefix_space": true',
    ),
    "pattern": (
        tiny_byte_level,
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]}},
        r"\\w+",
    ),
    "decoder": (tiny_byte_level, {"decoder": {"type": "WordPiece"}}, "decoder is not supported"),
    "no decoder": (tiny_byte_level, {"decoder": None}, "decoder is not supported: null"),
    "post-processor": (tiny_byte_level, {"post_processor": {"type": "BertProcessing"}}, "post_processor is not supp"),
    "end token behind": (
        tiny_sentencepiece,
        {"post_processor": {"type": "TemplateProcessing", "single": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ]}},
        "post_processor is not supported",
    ),
    "no split of bytes": (tiny_byte_level, {"pre_tokenizer": None}, "combination of pre_tokenizer and decoder"),
    "split of pieces": (
        tiny_sentencepiece,
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}},
        "combination of pre_tokenizer and decoder",
    ),
    "Metaspace always": (
        tiny_sentencepiece,
        {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                                               "split": False}},
        '"prepend_scheme": "always"',
    ),
    "Metaspace after a normalizer": (
        tiny_sentencepiece,
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}},
        "normalizer beside Metaspace is not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_parts_are_refused_and_shown(tmp_path: Path, name: str) -> None:
    make, change, sentence = UNKNOWN[name]
    with pytest.raises(UnsupportedModelError) as caught:
        table_of(tmp_path, {**make(), **change})
    assert sentence in str(caught.value)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("dropout", 0.1), ("continuing_subword_prefix", "##"), ("end_of_word_suffix", "</w>")]
)
def test_unknown_settings_of_the_model_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    source = tiny_byte_level()
    source["model"][name] = value
    with pytest.raises(UnsupportedModelError, match=f"model.{name} is not supported"):
        table_of(tmp_path, source)


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "vocabulary of text": ({"vocab": {"a": "0"}}, "does not map tokens to ids"),
    "no vocabulary": ({"vocab": None}, "model.vocab is a NoneType"),
    "one id twice": ({"vocab": {"a": 0, "b": 0}}, "are not the numbers of its 2 tokens"),
    "a huge id": ({"vocab": {"a": 0, "b": 1 << 40}}, "are not the numbers of its 2 tokens"),
    "a negative id": ({"vocab": {"a": 0, "b": -1}}, "are not the numbers of its 2 tokens"),
    "an unknown token that is no text": ({"unk_token": {"a": 1}}, "model.unk_token is {'a': 1}, not a token"),
    "a merge of three": ({"merges": ["a b c"]}, "merge 0 is 'a b c', not two tokens"),
    "a merge without its result": ({"merges": [["z", "z"]]}, "merge 0 ('z' 'z') has a part or a result without"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused(tmp_path: Path, name: str) -> None:
    change, sentence = DAMAGED[name]
    source = tiny_byte_level()
    source["model"].update(change)
    with pytest.raises(ModelFileError) as caught:
        table_of(tmp_path, source)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"added_tokens": 7}, "added_tokens is a int, expected an array"),
        ({"normalizer": {"type": "Sequence", "normalizers": 1.5}}, "normalizer is not supported"),
        (
            {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": True}, {"Sequence": {}}]}},
            "post_processor.single is a bool, expected an object",
        ),
    ],
)
def test_parts_of_another_type_are_refused(tmp_path: Path, part: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError)) as caught:
        table_of(tmp_path, {**tiny_sentencepiece(), **part})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("row", [added(1 << 30, "x"), added(-1, "x"), added(0, "x"), {"id": "1", "content": "x"}, 7])
def test_added_tokens_that_do_not_fit_are_refused(tmp_path: Path, row: Any) -> None:
    source = tiny_byte_level()
    source["added_tokens"].append(row)
    with pytest.raises(ModelFileError, match=r"added token|token 0 is both"):
        table_of(tmp_path, source)


def test_files_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no tokenizer\.json, no tokenizer\.model and no qwen\.tik"):
        TokenTable.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1]", "utf-8")
    with pytest.raises(ModelFileError, match="is a JSON list, expected an object"):
        TokenTable.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"{\xff")
    with pytest.raises(ModelFileError, match="is not usable JSON"):
        TokenTable.from_directory(tmp_path)


# ---- tokenizer.model ----


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])


def message(number: int, *fields: tuple[int, Any]) -> bytes:
    body = b""
    for field, value in fields:
        if isinstance(value, int):
            body += varint(field << 3) + varint(value)
        elif isinstance(value, float):
            body += varint(field << 3 | 5) + struct.pack("<f", value)
        else:
            text = value.encode("utf-8") if isinstance(value, str) else value
            body += varint(field << 3 | 2) + varint(len(text)) + text
    return varint(number << 3 | 2) + varint(len(body)) + body if number else body


def sentencepiece(trainer: Any = (), normalizer: Any = (), last: Any = ()) -> bytes:
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁", -1.0, 1), ("a", -2.0, 1), ("▁a", -0.5, 1)]
    rows = [message(1, (1, text), (2, score), (3, kind)) for text, score, kind in [*pieces, *last]]
    return b"".join(rows) + message(2, (3, 2), *trainer) + message(3, (4, 0), *normalizer)


def table_of_model(folder: Path, data: bytes, **config: Any) -> TokenTable:
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return TokenTable.from_directory(folder)


def test_a_sentencepiece_model_is_read(tmp_path: Path) -> None:
    table = table_of_model(tmp_path, sentencepiece())
    keys = keys_of(table)
    assert keys["rkllm.tokenizer.model"] == "score_bpe"
    assert keys["rkllm.tokenizer.normalizer"] == "mark_prepend"
    assert keys["tokenizer.ggml.tokens"] == ["<unk>", "<s>", "</s>", "▁", "a", "▁a"]
    assert keys["tokenizer.ggml.scores"] == [0.0, 0.0, 0.0, -1.0, -2.0, -0.5]
    assert keys["rkllm.tokenizer.added_ids"] == [0, 1, 2]
    assert (table.bos, table.eos, table.add_bos) == ("<s>", "</s>", True)


def test_a_configuration_adds_tokens_and_says_whether_marks_repeat(tmp_path: Path) -> None:
    extra = {"6": {"content": "<|user|>", "special": True, "rstrip": True}}
    table = table_of_model(tmp_path, sentencepiece(), legacy=False, added_tokens_decoder=extra, add_bos_token=False)
    keys = keys_of(table)
    assert keys["rkllm.tokenizer.normalizer"] == "mark_first"
    assert keys["tokenizer.ggml.tokens"][6:] == ["<|user|>"]
    assert len(keys["tokenizer.ggml.scores"]) == 7
    assert keys["rkllm.tokenizer.added_flags"] == [1, 1, 1, 5]
    assert table.add_bos is False


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (sentencepiece(trainer=[(3, 4)]), "kind char is not supported"),
        (sentencepiece(trainer=[(24, 1)]), "whitespace as a suffix"),
        (sentencepiece(normalizer=[(1, "nmt_nfkc"), (2, b"\1\2")]), "normalizer b'nmt_nfkc' is not supported"),
        (sentencepiece(normalizer=[(4, 1)]), "removing extra whitespaces"),
        (sentencepiece(trainer=[(3, 1)], last=[("x", 0.0, 4)]), "piece 6 ('x') is user-defined, which is not"),
        (sentencepiece(last=[("x", 0.0, 5)]), "piece 6 ('x') is unused"),
    ],
)
def test_unknown_sentencepiece_models_are_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        table_of_model(tmp_path, data)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"not a model at all", b"\x0a\x7fshort",
     bytes(64), sentencepiece(last=[("x", float("nan"), 1)]), sentencepiece(last=[(b"\xff", 0.0, 1)]),
     sentencepiece(last=[("x", 0.0, 9)]), message(1, (1, 5)), sentencepiece() + message(2, (3, "bpe"))],
)  # fmt: skip
def test_damaged_sentencepiece_models_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError)):
        table_of_model(tmp_path, data)


def test_a_sentencepiece_model_cut_anywhere_is_refused_or_shorter(tmp_path: Path) -> None:
    whole = sentencepiece()
    for size in range(len(whole)):
        try:
            table = table_of_model(tmp_path, whole[:size])
        except (ModelFileError, UnsupportedModelError):
            continue
        assert len(table.vocabulary.tokens) <= 6


# ---- GGUF ----


def gguf_values(**changes: Any) -> dict[str, Any]:
    """Return the keys of a byte-level vocabulary; a change of None takes a key away."""
    tokens = [*byte_alphabet(), "he", "<|end|>"]
    values = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": [1] * 257 + [3], "merges": ["h e"],
              "eos_token_id": 257, **changes}  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in values.items() if value is not None}


def test_a_gguf_vocabulary_is_read() -> None:
    table = TokenTable.from_gguf(gguf_values())
    keys = keys_of(table)
    assert keys["rkllm.tokenizer.merges"] == [ord("h"), ord("e")]
    assert (keys["rkllm.tokenizer.added_ids"], keys["rkllm.tokenizer.added_flags"]) == ([257], [1 | 32])
    assert (table.bos, table.eos, table.add_bos) == (None, "<|end|>", False)


@pytest.mark.parametrize("pre", ["default", "gpt-4o", "", None])
def test_a_gguf_file_that_does_not_say_how_words_are_cut_is_refused(pre: str | None) -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.ggml\.pre is .*; known are gpt-2, phi-2, smollm"):
        TokenTable.from_gguf(gguf_values(pre=pre))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"model": None}, ModelFileError, "has no tokenizer"),
        ({"model": "bert"}, UnsupportedModelError, "kind 'bert' is not supported"),
        ({"tokens": None}, ModelFileError, "key tokenizer.ggml.tokens is missing"),
        ({"merges": None}, ModelFileError, "key tokenizer.ggml.merges is missing"),
        ({"token_type": [1]}, ModelFileError, "has 1 elements for 258 tokens"),
        ({"tokens": [1] * 258}, ModelFileError, "tokenizer.ggml.tokens is not an array of str"),
        ({"merges": "h e"}, ModelFileError, "tokenizer.ggml.merges is not an array of str"),
        ({"token_type": [1.5] * 258}, ModelFileError, "tokenizer.ggml.token_type is not an array of int"),
        ({"merges": ["h z e"]}, ModelFileError, "not two tokens"),
        ({"merges": ["h h"]}, ModelFileError, "has a part or a result without a token"),
        ({"eos_token_id": 258}, ModelFileError, "eos_token_id is 258, the vocabulary has 258 tokens"),
        ({"eos_token_id": -1}, ModelFileError, "eos_token_id is -1"),
        ({"tokens": ["\udcff"] * 258}, ModelFileError, "token 0 is not UTF-8"),
        ({"model": "llama"}, ModelFileError, "key tokenizer.ggml.scores is missing"),
        ({"model": "llama", "scores": [0.0]}, ModelFileError, "scores has 1 elements for 258 tokens"),
        ({"model": "llama", "remove_extra_whitespaces": True}, UnsupportedModelError, "extra whitespaces"),
        ({"model": "llama", "precompiled_charsmap": [1]}, UnsupportedModelError, "normalizer is not supported"),
    ],
)
def test_gguf_keys_that_do_not_fit_are_refused(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        TokenTable.from_gguf(gguf_values(**changes))
    assert sentence in str(caught.value)

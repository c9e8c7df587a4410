# SPDX-License-Identifier: Apache-2.0
"""The runtime's tokenizers give the ids, and decode to the texts, of the genuine libraries."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Callable

import pytest
from tokenizer_file import (
    added,
    byte_alphabet,
    random_text,
    tiny_byte_level,
    tiny_sentencepiece,
    words_of,
    write_tokenizer,
)

from rkllm_ext._rkllm import GGUFFile, Tokenizer
from rkllm_ext.tokenizer import TokenTable

FAMILIES = ["gemma", "llama2", "llama3", "minicpm3", "phi-2", "phi-3", "qwen2", "smollm2", "stories260K"]
REFERENCES = ["chatglm3", "gemma", "gemma2", "internlm2", "llama-dynamic", "llama-llama3", "llama-mha-bin", "minicpm",
              "minicpm3", "minicpm3-longext", "phi", "phi3", "phi3-fp16", "phi3-longrope", "qwen", "qwen2",
              "qwen2-g512-bf16"]  # fmt: skip
TEXTS = ["frankenstein.txt", "libreoffice-help-zh.txt", "python-stdlib.py.txt", "reviews-zh.txt",
         "udhr-all-languages.txt", "wikitext-2-raw-test.txt"]  # fmt: skip

Open = Callable[..., Tokenizer]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Return a function that opens the tokenizer of a directory or of a tokenizer.json."""

    def open_source(source: Path | dict[str, Any], **config: Any) -> Tokenizer:
        if isinstance(source, dict):
            folder = tmp_path / "source"
            folder.mkdir(exist_ok=True)
            (folder / "tokenizer.json").write_text(json.dumps(source), "utf-8")
            (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
            source = folder
        return Tokenizer(write_tokenizer(tmp_path / "t.rkllm", TokenTable.from_directory(source).metadata()))

    return open_source


def genuine(source: Path | dict[str, Any]) -> Any:
    """Return the genuine tokenizer of a directory or of a tokenizer.json."""
    library = pytest.importorskip("tokenizers")
    text = json.dumps(source) if isinstance(source, dict) else (source / "tokenizer.json").read_text("utf-8")
    return library.Tokenizer.from_str(text)


def ids_of(oracle: Any, text: str) -> list[int]:
    return list(oracle.encode(text, add_special_tokens=False).ids)


def special_texts(oracle: Any) -> list[str]:
    return [token.content for token in oracle.get_added_tokens_decoder().values()]


def check_random(ours: Tokenizer, oracle: Any, special: list[str], words: list[str], seed: int, count: int) -> None:
    """Compare both ways over random texts, and decoding over random ids."""
    rng = random.Random(seed)
    # tokenizers 0.23 decodes special tokens with the flag "normalized" as "▁<s>": those are left out.
    hidden = {index for index, t in oracle.get_added_tokens_decoder().items() if oracle.id_to_token(index) != t.content}
    for _ in range(count):
        text = random_text(rng, special, words)
        ids = ids_of(oracle, text)
        assert ours.encode(text).tolist() == ids, ascii(text)
        random_ids = [rng.randrange(ours.vocab_size) for _ in range(rng.randrange(20))]
        for each in (ids, random_ids, [3 + index % 250 for index in random_ids]):
            shown = [index for index in each if index not in hidden]
            for skip in (False, True):
                assert ours.decode(shown, skip) == oracle.decode(shown, skip_special_tokens=skip), shown
    oracle.encode_special_tokens = True
    for _ in range(count // 4):
        text = random_text(rng, special, words)
        assert ours.encode(text, parse_special=False).tolist() == ids_of(oracle, text), ascii(text)
    oracle.encode_special_tokens = False


# ---- tiny vocabularies, by hand ----


def test_byte_level_merges_by_rank_and_keeps_every_byte(opened: Open) -> None:
    with opened(tiny_byte_level()) as ours:
        assert ours.vocab_size == 261
        assert ours.encode("hello hell").tolist() == [256, 257, 111, 259]
        assert ours.encode("é\0").tolist() == [0xC3, 0xA9, 0]
        assert ours.decode([256, 257, 111, 259]) == "hello hell"
        assert ours.decode([0xC3]) == "\ufffd"
        assert (ours.token_id("Ġhell"), ours.token_id("<|end|>"), ours.token_id("none")) == (259, 260, None)


def test_special_tokens_in_the_text_are_parsed_or_kept_as_text(opened: Open) -> None:
    with opened(tiny_byte_level()) as ours:
        assert ours.encode("he<|end|>he").tolist() == [256, 260, 256]
        assert 260 not in ours.encode("he<|end|>he", parse_special=False).tolist()
        assert ours.decode([256, 260]) == "he<|end|>"
        assert ours.decode([256, 260], skip_special=True) == "he"


def test_sentencepiece_prepends_a_mark_after_each_special_token(opened: Open) -> None:
    with opened(tiny_sentencepiece(), tokenizer_class="LlamaTokenizer", bos_token="<s>") as ours:
        assert ours.encode("ab").tolist() == [264]  # ▁a b, then ▁ab
        assert ours.encode("bab").tolist() == [259, 261, 263]
        assert ours.encode("a</s>a").tolist() == [262, 2, 262]
        assert ours.encode("a", add_bos=True).tolist() == [1, 262]
        assert ours.encode("é a").tolist() == [259, 3 + 0xC3, 3 + 0xA9, 262]
        assert ours.decode([262, 262]) == "a a"  # one leading space is the tokenizer's own
        assert ours.decode([3 + 0xC3, 3 + 0xA9, 260]) == "éa"
        assert ours.decode([3 + 0xC3, 3 + 0xA9, 3 + 0xFF, 260]) == "\ufffd\ufffd\ufffda"


def test_invalid_utf8_is_read_as_python_replaces_it(opened: Open) -> None:
    with opened(tiny_byte_level()) as ours:
        for broken in (b"a\xff", b"\xe6\xb0", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\x80", b"\xe6\xb0a\x80"):
            assert ours.encode(broken).tolist() == ours.encode(broken.decode("utf-8", "replace")).tolist()


def test_empty_text_and_empty_ids(opened: Open) -> None:
    with opened(tiny_sentencepiece()) as ours:
        assert ours.encode("").tolist() == []
        assert ours.decode([]) == ""


def test_a_word_of_a_megabyte_takes_no_quadratic_time(opened: Open) -> None:
    with opened(tiny_byte_level()) as ours:
        text = "he" * 500_000
        assert ours.encode(text).tolist() == [256] * 500_000


@pytest.mark.parametrize("tiny", [tiny_byte_level, tiny_sentencepiece])
@pytest.mark.parametrize("seed", range(12))
def test_tiny_vocabularies_with_added_tokens_of_any_flags(opened: Open, tiny: Any, seed: int) -> None:
    rng = random.Random(seed)
    source = tiny()
    size = 1 + max(token["id"] for token in source["added_tokens"])
    size = max(size, 1 + max(source["model"]["vocab"].values()))
    texts = ["foo", " foo", "foo ", "éx", "<b>", "\t", "'ll", "ab c", "\u2581q"]
    for index, text in enumerate(rng.sample(texts, 5)):
        flags = {name: rng.random() < 0.4 for name in ("special", "lstrip", "rstrip", "normalized", "single_word")}
        source["added_tokens"].append(added(size + index, text, **flags))
    if tiny is tiny_byte_level:
        source["normalizer"] = rng.choice([None, {"type": "NFC"}])
        source["model"]["ignore_merges"] = rng.random() < 0.5
        source["pre_tokenizer"] = rng.choice([source["pre_tokenizer"], {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, source["pre_tokenizer"]],
        }])  # fmt: skip
    elif rng.random() < 0.5:
        source["normalizer"] = None
        source["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    oracle = genuine(source)
    special = special_texts(oracle)
    with opened(source) as ours:
        check_random(ours, oracle, special, ["a", "b", " ab", "hello hell", "1234", *special], seed, 60)


def test_characters_without_tokens_become_one_unknown_token_or_many(opened: Open) -> None:
    for fuse in (True, False):
        source = tiny_sentencepiece()
        source["model"]["vocab"] = {t: i for t, i in source["model"]["vocab"].items() if not t.startswith("<0x")}
        source["model"]["vocab"] = {text: index for index, text in enumerate(source["model"]["vocab"])}
        source["model"].update(byte_fallback=False, fuse_unk=fuse)
        oracle = genuine(source)
        with opened(source) as ours:
            for text in ("xyz", "axyzb x", "水 a水水", "x"):
                assert ours.encode(text).tolist() == ids_of(oracle, text)
            assert ours.encode("xy").tolist() == ([3, 0] if fuse else [3, 0, 0])


def test_a_tokenizer_is_used_from_many_threads(opened: Open) -> None:
    with opened(tiny_sentencepiece()) as ours:
        texts = ["ab " * (index % 50) + chr(0x4E00 + index) for index in range(400)]
        expected = [ours.encode(text).tolist() for text in texts]
        with ThreadPoolExecutor(4) as threads:
            assert [ids.tolist() for ids in threads.map(ours.encode, texts)] == expected


# ---- the genuine files ----


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_cases(opened: Open, shared: Path, name: str) -> None:
    folder = shared / "reference" / name
    expected = json.loads((folder / "tokenizer_expected.json").read_text("utf-8"))
    prefix = expected["prefix_ids_when_adding_special"]
    with opened(folder) as ours:
        assert ours.vocab_size == expected["size"]
        for case in expected["cases"]:
            text, ids = case["text"], case["ids"]
            assert ours.encode(text).tolist() == ids, text
            assert ours.encode(text, add_bos=True).tolist() == case.get("ids_with_special", prefix + ids), text
            assert ours.decode(ids) == case["decoded"], text
            assert ours.decode(ids, skip_special=True) == case.get("decoded_skip_special", case["decoded"]), text
        for case in expected["decode_cases"]:
            assert ours.decode(case["ids"]) == case["text"]
            assert ours.decode(case["ids"], skip_special=True) == case["text_skip_special"]


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_texts(opened: Open, shared: Path, family: str) -> None:
    folder = shared / "tokenizers" / family
    oracle = genuine(folder)
    with opened(folder) as ours:
        for name in TEXTS:
            text = (shared / "text" / name).read_text("utf-8")
            # The genuine library needs minutes for a long text that it takes as one word.
            size = 300_000 if family in ("llama3", "phi-2", "qwen2", "smollm2") else 20_000
            for start in (0, len(text) // 2):
                part = text[start : start + size]
                ids = ids_of(oracle, part)
                assert ours.encode(part).tolist() == ids, name
                assert ours.decode(ids) == oracle.decode(ids, skip_special_tokens=False), name
            if family != "qwen2":  # it composes characters
                assert ours.decode(ours.encode(text)) == text, name


@pytest.mark.parametrize("family", FAMILIES)
def test_random_texts(opened: Open, shared: Path, family: str) -> None:
    folder = shared / "tokenizers" / family
    oracle = genuine(folder)
    words = words_of((shared / "text" / "udhr-all-languages.txt").read_text("utf-8"))
    with opened(folder) as ours:
        check_random(ours, oracle, special_texts(oracle), words, 1, 400)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_million_random_texts(opened: Open, shared: Path, family: str) -> None:
    folder = shared / "tokenizers" / family
    oracle = genuine(folder)
    words = words_of((shared / "text" / "udhr-all-languages.txt").read_text("utf-8"), 100_000)
    with opened(folder) as ours:
        check_random(ours, oracle, special_texts(oracle), words, 2, 1_000_000)


@pytest.mark.parametrize(
    "folder",
    ["tokenizers/llama2", "tokenizers/stories260K", "tokenizers/internlm2", "tokenizers/minicpm",
     "tokenizers/minicpm3", "tokenizers/chatglm3", "reference/llama-dynamic", "reference/gemma", "reference/internlm2"],
)  # fmt: skip
@pytest.mark.parametrize("count", [500, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_sentencepiece_models_by_score(opened: Open, shared: Path, tmp_path: Path, folder: str, count: int) -> None:
    library = pytest.importorskip("sentencepiece")
    data = (shared / folder / "tokenizer.model").read_bytes()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "tokenizer.model").write_bytes(data)
    oracle = library.SentencePieceProcessor(model_proto=data)
    words = words_of((shared / "text" / "udhr-all-languages.txt").read_text("utf-8"))
    rng = random.Random(3)
    drawn = (random_text(rng, ["<s>", "</s>", "<unk>"], words) for _ in range(count))
    real = [(shared / "text" / name).read_text("utf-8")[:400_000] for name in TEXTS]
    with opened(alone) as ours:
        for text in chain(drawn, real):
            ids = oracle.encode(text)
            assert ours.encode(text, parse_special=False).tolist() == ids, ascii(text[:200])
            assert ours.decode(ids) == oracle.decode(ids)
        begin = oracle.bos_id()
        assert ours.encode(oracle.id_to_piece(begin), add_bos=True).tolist() == [begin, begin]


def test_a_gguf_vocabulary_by_score_gives_the_ids_of_sentencepiece(shared: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    model = shared / "models" / "stories260K"
    oracle = library.SentencePieceProcessor(model_file=str(model / "tokenizer.model"))
    with GGUFFile(model / "gguf" / "stories260K-f16.gguf") as file:
        table = TokenTable.from_gguf(file.values)
    text = (shared / "text" / "udhr-all-languages.txt").read_text("utf-8")[:200_000]
    with Tokenizer(write_tokenizer(tmp_path / "t.rkllm", table.metadata())) as ours:
        assert (table.bos, table.eos, table.add_bos) == ("<s>", "</s>", True)
        assert ours.encode(text, parse_special=False).tolist() == oracle.encode(text)


@pytest.mark.parametrize(
    ("family", "pre"), [("smollm2", "smollm"), ("phi-2", "phi-2"), ("qwen2", "qwen2"), ("llama3", "llama-bpe")]
)
def test_a_byte_level_gguf_vocabulary_gives_the_ids_of_tokenizer_json(
    shared: Path, tmp_path: Path, family: str, pre: str
) -> None:
    folder = shared / "tokenizers" / family
    rows = {name: value for name, _, value in TokenTable.from_directory(folder).metadata()}
    tokens, pairs = rows["tokenizer.ggml.tokens"], rows["rkllm.tokenizer.merges"]
    oracle = genuine(folder)
    special = {index for index, token in oracle.get_added_tokens_decoder().items() if token.special}
    control, user_defined = 3, 4
    types = [1] * len(tokens)
    for index in rows["rkllm.tokenizer.added_ids"]:
        types[index] = control if index in special else user_defined
    values = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [f"{tokens[left]} {tokens[right]}" for left, right in zip(pairs[::2], pairs[1::2])],
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    table = TokenTable.from_gguf(values)
    words = words_of((shared / "text" / "udhr-all-languages.txt").read_text("utf-8"))
    with Tokenizer(write_tokenizer(tmp_path / "gguf.rkllm", table.metadata())) as ours:
        check_random(ours, oracle, special_texts(oracle), words, 4, 200)


# ---- character classes, for every code point ----


@pytest.mark.parametrize("split", ["llama3", "qwen2", "gpt2", "digits_gpt2"])
def test_every_code_point_is_classified_as_the_genuine_library_does(opened: Open, split: str) -> None:
    library = pytest.importorskip("tokenizers")
    if not library.__version__.startswith("0.23"):
        pytest.skip("other versions of tokenizers know another version of Unicode")
    source = tiny_byte_level()
    if split == "digits_gpt2":
        steps = [{"type": "Digits", "individual_digits": True}, source["pre_tokenizer"]]
        source["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    elif split != "gpt2":
        number = r"\p{N}{1,3}" if split == "llama3" else r"\p{N}"
        pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + number
                   + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip
        isolated = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        source["pre_tokenizer"]["use_regex"] = False
        source["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [isolated, source["pre_tokenizer"]]}
    # Merges show the words: a space or a 1 joins the first byte of a character behind it in the same word, the last
    # byte of a character joins an "a".
    model, letters = source["model"], byte_alphabet()
    model["merges"] = [[first, lead] for first in "Ġ1" for lead in [*letters[0x21:0x7F], *letters[0xC2:0xF5]]]
    model["merges"] += [[last, "a"] for last in letters[0x80:0xC0]]
    model["vocab"] = {t: i for t, i in model["vocab"].items() if i < 256}
    for pair in model["merges"]:
        model["vocab"].setdefault("".join(pair), len(model["vocab"]))
    source["added_tokens"] = []
    oracle = genuine(source)
    with opened(source) as ours:
        # Of the higher planes, some of each: they are letters throughout or not at all.
        for start in [*range(0, 0x20000, 0x1000), *range(0x20000, 0x34000, 0x5000), 0xE0000, 0xF0000, 0x10F000]:
            codes = [code for code in range(start, start + 0x1000) if not 0xD800 <= code < 0xE000]
            text = "".join(f" {chr(code)}a{chr(code)}1{chr(code)} '" for code in codes)
            assert ours.encode(text).tolist() == ids_of(oracle, text), hex(start)


@pytest.mark.parametrize("mark", [0x301, 0x323, 0x345, 0x3099])
def test_every_code_point_is_composed_as_the_genuine_library_does(opened: Open, mark: int) -> None:
    source = tiny_byte_level()
    source["normalizer"] = {"type": "NFC"}
    oracle = genuine(source)
    with opened(source) as ours:
        for start in range(0, 0x30000, 0x1000):
            codes = [code for code in range(start, start + 0x1000) if not 0xD800 <= code < 0xE000]
            text = "".join(f"{chr(code)}{chr(mark)}a{chr(mark)}{chr(code)}." for code in codes)
            assert ours.encode(text).tolist() == ids_of(oracle, text), hex(start)

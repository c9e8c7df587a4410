# SPDX-License-Identifier: Apache-2.0
"""tokenizer.model and qwen.tiktoken: the ids and texts of sentencepiece, tiktoken and the classes around them."""

from __future__ import annotations

import base64
import io
import json
import random
import unicodedata
from itertools import chain
from pathlib import Path
from typing import Any, Callable

import pytest
from tokenizer_file import byte_alphabet, random_text, words_of, write_tokenizer

from rkllm_ext._rkllm import Tokenizer
from rkllm_ext.errors import ModelFileError, UnsupportedModelError
from rkllm_ext.tokenizer import TokenTable

Open = Callable[..., Tokenizer]
CORPUS = [
    "the cat sat on the mat, the other cat did not", "a long line of words that repeat: words, words, words",
    "zwei kleine Katzen sitzen auf der Matte",
    "\u732b\u5750\u5728\u57ab\u5b50\u4e0a\uff0c\u53e6\u4e00\u53ea\u732b\u6ca1\u6709",
    "  two  spaces  and\ttabs", "1234 5678 90", "don't they're we've", "def f(x):    return x + 1",
] * 6  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Return a function that opens a tokenizer given as the content of its file and of its configuration."""

    def open_source(name: str, data: bytes, **config: Any) -> Tokenizer:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        return Tokenizer(write_tokenizer(tmp_path / "t.rkllm", TokenTable.from_directory(folder).metadata()))

    return open_source


def trained(**options: Any) -> bytes:
    """Return a SentencePiece model trained on a few lines."""
    library = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, normalization_rule_name="identity",
        remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options,
    )  # fmt: skip
    return model.getvalue()


def check_sentencepiece(ours: Tokenizer, data: bytes, special: list[str], seed: int) -> Any:
    """Compare both ways over random texts; return the genuine tokenizer."""
    oracle = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=data)
    rng = random.Random(seed)
    words = words_of("\n".join(CORPUS), 500)
    for _ in range(400):
        text = random_text(rng, special, words)
        ids = oracle.encode(text)
        assert ours.encode(text, parse_special=False).tolist() == ids, ascii(text)
        if oracle.unk_id() not in ids:  # spelled out here, a sign there
            assert ours.decode(ids) == oracle.decode(ids), ids
    return oracle


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_unigram_models_give_the_ids_of_sentencepiece(opened: Open, byte_fallback: bool, prefix: bool) -> None:
    size = 360 if byte_fallback else 110
    data = trained(model_type="unigram", vocab_size=size, byte_fallback=byte_fallback, add_dummy_prefix=prefix)
    with opened("tokenizer.model", data) as ours:
        check_sentencepiece(ours, data, ["<s>"], 1)


def test_a_long_text_takes_no_quadratic_time_in_a_unigram_model(opened: Open) -> None:
    with opened("tokenizer.model", trained(model_type="unigram", vocab_size=110)) as ours:
        assert ours.decode(ours.encode("the cats" * 100_000)) == "the cats" * 100_000


def test_user_defined_pieces_are_cut_out_before_anything_merges(opened: Open) -> None:
    pieces = ["\n", "the", "e c", "<b>", "<b>>", "  ", "[X]", "9"]
    data = trained(model_type="bpe", vocab_size=420, byte_fallback=True, user_defined_symbols=pieces)
    with opened("tokenizer.model", data) as ours:
        oracle = check_sentencepiece(ours, data, pieces, 2)
        assert ours.encode("<b>>").tolist() == oracle.encode("<b>>")
        assert ours.token_id("[X]") == oracle.piece_to_id("[X]")
        assert ours.token_id("[X]") in ours.encode("a[X]b").tolist()


def test_internlm2_tokens_that_were_renamed_answer_to_both_names(opened: Open) -> None:
    data = trained(model_type="bpe", vocab_size=400, byte_fallback=True, user_defined_symbols=["[UNUSED_TOKEN_1]"])
    oracle = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=data)
    renamed = oracle.piece_to_id("[UNUSED_TOKEN_1]")
    rows = {str(renamed): {"content": "<|im_end|>", "special": True}}
    with opened("tokenizer.model", data, tokenizer_class="InternLM2Tokenizer", added_tokens_decoder=rows) as ours:
        assert ours.encode("a[UNUSED_TOKEN_1]b").tolist() == oracle.encode("a[UNUSED_TOKEN_1]b")
        ids = ours.encode("a<|im_end|>b").tolist()
        assert ids == [*oracle.encode("a"), renamed, *oracle.encode("b")]
        assert ours.encode("a<|im_end|>b", parse_special=False).tolist() == oracle.encode("a<|im_end|>b")
        assert ours.token_id("<|im_end|>") == ours.token_id("[UNUSED_TOKEN_1]") == renamed
        assert ours.decode(ids) == " a<|im_end|>b"
        assert ours.decode(ids, skip_special=True) == "a b"
        assert ours.decode([renamed, renamed]) == " <|im_end|><|im_end|>"


def test_internlm2_cleans_spaces_before_punctuation(opened: Open) -> None:
    data = trained(model_type="bpe", vocab_size=400, byte_fallback=True)
    with opened("tokenizer.model", data, tokenizer_class="InternLM2Tokenizer") as ours:
        assert ours.decode(ours.encode("a . b ? c  ! d ,e ' f don n't we 've")) == "a. b? c ! d,e'f donn't we've"
    with opened("tokenizer.model", data) as ours:
        assert ours.decode(ours.encode("a . b ' c")) == "a . b ' c"


def test_chatglm_tokens_are_never_read_out_of_a_text(opened: Open) -> None:
    data = trained(model_type="bpe", vocab_size=400, byte_fallback=True)
    oracle = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=data)
    size = oracle.vocab_size()
    with opened("tokenizer.model", data, tokenizer_class="ChatGLMTokenizer") as ours:
        assert ours.vocab_size == size + 9
        for text in ("<|user|>\n a", "[gMASK]sop", "a<s></s><unk>b"):
            assert ours.encode(text).tolist() == oracle.encode(text)
            assert ours.encode(text, add_bos=True).tolist() == [size + 1, size + 3, *oracle.encode(text)]
            assert ours.decode(oracle.encode(text)) == text
        assert ours.decode([size + 6, 2, *oracle.encode("the")]) == "<|user|> the"


def test_the_class_of_an_unknown_family_is_refused(opened: Open) -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.model used by XTokenizer is not supported"):
        opened("tokenizer.model", b"", tokenizer_class="XTokenizer")


# ---- qwen.tiktoken ----

LONGER = [b"aa", b"aaa", b"ab", b"he", b"ll", b" he", b"hell", b"hello", b"\xe6\xb0", b"\xe6\xb0\xb4", b"aaaa"]


def tiktoken_file(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def single_bytes() -> list[bytes]:
    order = list(range(256))
    random.Random(7).shuffle(order)
    return [bytes([byte]) for byte in order]


def merged(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Merge as tiktoken's rule says: the neighbours whose joined bytes have the lowest rank, the leftmost of equals."""
    parts = [word[index : index + 1] for index in range(len(word))]
    while word not in parts:
        found = [(ranks[a + b], index) for index, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]
        if not found:
            break
        index = min(found)[1]
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return [ranks[part] for part in parts]


def test_a_tiktoken_file_merges_whatever_pair_has_the_lowest_rank(opened: Open) -> None:
    tokens = single_bytes() + LONGER
    ranks = {token: rank for rank, token in enumerate(tokens)}
    rng = random.Random(8)
    with opened("qwen.tiktoken", tiktoken_file(tokens), tokenizer_class="QWenTokenizer") as ours:
        assert ours.vocab_size == len(tokens) + 208
        for _ in range(500):
            word = "".join(rng.choice("aaabhelo") for _ in range(rng.randrange(1, 70)))
            expected = [ranks[word.encode()]] if word.encode() in ranks else merged(word.encode(), ranks)
            assert ours.encode(word).tolist() == expected, word
        assert ours.encode("hello").tolist() == [ranks[b"hello"]]
        parts = (b"a", b"1", b"\xe6\xb0\xb4", b"\r", b"\n")
        assert ours.encode("a1\u6c34\r\n").tolist() == [ranks[part] for part in parts]
        assert ours.decode([ranks[b"\xe6\xb0"], ranks[b"a"]]) == "\ufffda"


def test_qwen_tokens_follow_the_ranks_and_are_looked_for_in_composed_text(opened: Open) -> None:
    tokens = single_bytes()
    first = len(tokens)
    with opened("qwen.tiktoken", tiktoken_file(tokens)) as ours:
        assert ours.encode("<|endoftext|><|im_start|><|im_end|><|extra_0|><|extra_204|>").tolist() == [
            first, first + 1, first + 2, first + 3, first + 207]  # fmt: skip
        assert first + 2 not in ours.encode("<|im_end|>\u0338").tolist()  # > and the mark compose
        assert ours.decode(ours.encode("a<|im_end|>"), skip_special=True) == "a"
        assert ours.encode("e\u0301").tolist() == ours.encode("\u00e9").tolist()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the byte b'\\\\x00' has no token"),
        (tiktoken_file(single_bytes()[1:]), "has no token; all 256 are needed"),
        (b"YQ== 1\n", "line 1 is b'YQ== 1', expected base64 and the rank 0"),
        (b"YQ== 0\n!!!! 1\n", "line 2 is "),
        (b"YQ==\n", "line 1 is "),
        (b" 0\n", "line 1 is "),
        (b" \n", "has no token"),
        (tiktoken_file([*single_bytes(), b"a"]), "1 of 257 tokens occur twice"),
    ],
)
def test_damaged_tiktoken_files_are_refused(opened: Open, data: bytes, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        opened("qwen.tiktoken", data)


def test_a_tiktoken_file_of_another_class_is_refused(opened: Open) -> None:
    with pytest.raises(UnsupportedModelError, match="used by XTokenizer it is not supported"):
        opened("qwen.tiktoken", tiktoken_file(single_bytes()), tokenizer_class="XTokenizer")


# ---- the genuine files ----


def split_special(text: str, special: dict[str, int]) -> list[str]:
    """Return the text cut at special tokens, the leftmost first and the longest of those, with them in between."""
    parts, start, pos = [], 0, 0
    while pos < len(text):
        found = max((s for s in special if text.startswith(s, pos)), key=len, default="")
        if found:
            parts += [text[start:pos], found]
            start = pos = pos + len(found)
        else:
            pos += 1
    return [*parts, text[start:]]


@pytest.mark.parametrize("family", ["internlm2", "minicpm"])
def test_special_tokens_in_random_texts(opened: Open, shared: Path, family: str) -> None:
    folder = shared / "tokenizers" / family
    data = (folder / "tokenizer.model").read_bytes()
    oracle = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=data)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    special = {row["content"]: int(index) for index, row in config["added_tokens_decoder"].items()}
    words = words_of((shared / "text" / "udhr-all-languages.txt").read_text("utf-8"))
    rng = random.Random(5)
    names = [*special, "[UNUSED_TOKEN_145]", "<reserved_12>", "\n", "\t", "\uff11"]
    with opened("tokenizer.model", data, **config) as ours:
        for _ in range(600):
            text = random_text(rng, names, words)
            parts = split_special(text, special)
            ids = [index for part in parts for index in ([special[part]] if part in special else oracle.encode(part))]
            assert ours.encode(text).tolist() == ids, ascii(text)


@pytest.mark.parametrize("family", ["internlm2", "minicpm", "chatglm3"])
def test_random_ids_decode_as_sentencepiece_decodes_them(opened: Open, shared: Path, family: str) -> None:
    data = (shared / "tokenizers" / family / "tokenizer.model").read_bytes()
    oracle = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=data)
    rng = random.Random(6)
    with opened("tokenizer.model", data) as ours:
        for _ in range(2000):
            ids = [rng.randrange(3, oracle.vocab_size()) for _ in range(rng.randrange(1, 20))]
            for each in (ids, [3 + index % 260 for index in ids]):
                assert ours.decode(each) == oracle.decode(each), each


@pytest.mark.parametrize("count", [1500, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_qwen_gives_the_ids_of_tiktoken(opened: Open, shared: Path, count: int) -> None:
    library = pytest.importorskip("tiktoken")
    # The runtime composes as the library `tokenizers` does, by Unicode 9.0; Qwen's own class does as Python does. They
    # differ in the order of marks that are younger than 9.0: texts with those are left out.
    older = pytest.importorskip("tokenizers").normalizers.NFC()
    data = (shared / "tokenizers" / "qwen1" / "qwen.tiktoken").read_bytes()
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in data.splitlines()}
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205))]
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")  # fmt: skip
    special = {name: len(ranks) + index for index, name in enumerate(names)}
    oracle = library.Encoding("Qwen", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    rng = random.Random(9)
    words = words_of((shared / "text" / "udhr-all-languages.txt").read_text("utf-8"))
    drawn = (random_text(rng, names, words) for _ in range(count))
    real = [path.read_text("utf-8")[:300_000] for path in sorted((shared / "text").glob("*.txt"))]
    left_out = 0
    with opened("qwen.tiktoken", data) as ours:
        for text in chain(drawn, real):
            composed = unicodedata.normalize("NFC", text)
            if composed != older.normalize_str(text):
                left_out += 1
                continue
            ids = oracle.encode(composed, allowed_special="all")
            assert ours.encode(text).tolist() == ids, ascii(text[:300])
            assert ours.encode(text, parse_special=False).tolist() == oracle.encode(composed, disallowed_special=())
            assert ours.decode(ids) == composed
            shown = [rng.randrange(ours.vocab_size) for _ in range(10)]
            assert ours.decode(shown) == oracle.decode(shown)
    assert left_out < 0.01 * count


def test_the_spelling_of_bytes_is_that_of_byte_level_vocabularies(tmp_path: Path) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(tiktoken_file([bytes([byte]) for byte in range(256)]))
    assert TokenTable.from_directory(tmp_path).vocabulary.tokens[:256] == byte_alphabet()


def test_a_gguf_vocabulary_without_a_prefix_keeps_user_defined_tokens_whole(tmp_path: Path) -> None:
    pieces = ["\n\n", "   ", "<b>"]
    data = trained(model_type="bpe", vocab_size=420, byte_fallback=True, user_defined_symbols=pieces,
                   add_dummy_prefix=False)  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(data)
    rows = {name: value for name, _, value in TokenTable.from_directory(tmp_path).metadata()}
    values = {name: rows[name] for name in rows if name.startswith("tokenizer.ggml.")}
    values.update({"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": False})
    with Tokenizer(write_tokenizer(tmp_path / "t.rkllm", TokenTable.from_gguf(values).metadata())) as ours:
        check_sentencepiece(ours, data, pieces, 3)

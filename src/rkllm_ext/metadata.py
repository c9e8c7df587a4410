# SPDX-License-Identifier: Apache-2.0
"""The key/values of a ``.rkllm`` file that say what the model is, where it came from and how to talk to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import _rkllm
from .arch import ModelSpec, find_family
from .errors import ModelFileError
from .readers import Checkpoint
from .tokenizer import tokenizer_keys
from .writer import Key

CONTAINER_VERSION = 1
# Special tokens that end a turn or a text in every model that has them. GGUF files name only one or two of theirs.
_END_TEXTS = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
# The prompt format of tokenizer classes that have it in their code and not in a file.
_CLASS_TEMPLATES = {
    "QWenTokenizer": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>{{ '\n' }}"
        "{% endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}<|im_end|>"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # ChatGLM3 reads no special token from a text, and encodes the line of a role apart from the message: the text is
    # cut at the separator into pieces that are, by turns, text and a special token.
    "ChatGLMTokenizer": (
        "{% for message in messages %}{{ '\x1f<|' + message['role'] + '|>\x1f\n\x1f\x1f' }}"
        "{{ message['content'] | replace('\x1f', '') }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\x1f<|assistant|>\x1f' }}{% endif %}"
    ),
}
# The prompt format that a family's makers document without a template.
_FAMILY_TEMPLATES = {
    "phi": (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'Instruct: ' + message['content'] + '\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'Output: ' + message['content'] + '\n' }}"
        "{% else %}{{ message['content'] + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Output:' }}{% endif %}"
    ),
}
_CLASS_SEPARATORS = {"ChatGLMTokenizer": "\x1f"}
# Roles whose turn ends the model's own.
_CLASS_ENDS = {"ChatGLMTokenizer": ("<|user|>", "<|observation|>")}
_CONTROL = 3  # tokenizer.ggml.token_type of a special token


def source_key(fingerprint: str) -> Key:
    """Return the key that says which checkpoint a file was made from: the SHA-256 of `Checkpoint.fingerprint`."""
    return ("rkllm.source", "string", fingerprint)


def model_keys(checkpoint: Checkpoint, spec: ModelSpec, *, format: str, algorithm: str, platform: str) -> list[Key]:
    """Return the keys of a converted model except `source_key` and those that follow from its tensors (docs/format.md).

    Raises
    ------
    ModelFileError
        The tokenizer or a side file of the checkpoint is missing or damaged.
    UnsupportedModelError
        The tokenizer's kind is not supported, or this engine cannot hold the spec.
    """
    fields = {field.name: (field.type, field.default is None) for field in _rkllm.spec_fields()}
    name, template = model_name(checkpoint), chat_template(checkpoint)
    tokenizer = tokenizer_keys(checkpoint)
    _check_vocabulary(tokenizer, spec.size("vocab_size"))
    end = [value for key, _, value in tokenizer if key == "tokenizer.ggml.eos_token_id"]
    end += _ends_of_template(tokenizer, template)
    end += _ends_by_text_of(tokenizer, _CLASS_ENDS.get(tokenizer_class(checkpoint), ()))
    separator = _CLASS_SEPARATORS.get(tokenizer_class(checkpoint), "")
    return [
        ("general.architecture", "string", "rkllm"),
        ("general.type", "string", "model"),
        *([("general.name", "string", name)] if name else []),
        ("rkllm.version", "u32", CONTAINER_VERSION),
        ("rkllm.required", "[string]", []),
        ("rkllm.producer", "string", f"rkllm_ext {_rkllm.version()}"),
        ("rkllm.family", "string", find_family(checkpoint.config, checkpoint.kind).name),
        ("rkllm.format", "string", format),
        ("rkllm.algorithm", "string", algorithm),
        ("rkllm.platform", "string", platform),
        *((f"rkllm.spec.{field}", kind, value) for kind, field, value in spec.rows(fields)),
        ("rkllm.end_tokens", "[u32]", end_tokens(checkpoint, spec.size("vocab_size"), end)),
        *([("tokenizer.chat_template", "string", template)] if template else []),
        *([("rkllm.chat.separator", "string", separator)] if separator else []),
        *tokenizer,
    ]


def model_name(checkpoint: Checkpoint) -> str:
    """Return the name that the model's maker gave it, "" when there is none."""
    name = checkpoint.config.get("general.name" if checkpoint.kind == "gguf" else "_name_or_path")
    return name if isinstance(name, str) else ""


def chat_template(checkpoint: Checkpoint) -> str:
    """Return the text of the model's chat template, "" when it has none."""
    if checkpoint.kind == "gguf":
        return _template_text(checkpoint.config.get("tokenizer.chat_template"))
    if "chat_template.jinja" in checkpoint.files:
        path = checkpoint.files["chat_template.jinja"]
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelFileError(f"{path}: cannot be read: {error}") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        text = _template_text(checkpoint.side_file(name).get("chat_template"))
        if text:
            return text
    family = find_family(checkpoint.config, checkpoint.kind).name
    return _CLASS_TEMPLATES.get(tokenizer_class(checkpoint), _FAMILY_TEMPLATES.get(family, ""))


def tokenizer_class(checkpoint: Checkpoint) -> str:
    """Return the name of the tokenizer's class in the genuine code, "" when the checkpoint does not say."""
    if checkpoint.kind == "gguf":
        return ""
    return str(checkpoint.side_file("tokenizer_config.json").get("tokenizer_class", ""))


def end_tokens(checkpoint: Checkpoint, vocab_size: int, of_tokenizer: Sequence[int] = ()) -> list[int]:
    """Return the ids that end an answer, ascending: the configuration's and the tokenizer's.

    Raises
    ------
    ModelFileError
        An id lies outside the vocabulary.
    """
    config = checkpoint.config
    if checkpoint.kind == "gguf":
        named = [config.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
        tokens, types = config.get("tokenizer.ggml.tokens"), config.get("tokenizer.ggml.token_type")
        named.append(_ends_by_text(tokens, types) if tokens is not None and types is not None else None)
    else:
        named = [checkpoint.side_file("generation_config.json").get("eos_token_id"), config.get("eos_token_id")]
    lists = [*(item if isinstance(item, list) else [item] for item in named), of_tokenizer]
    ids = [each for item in lists for each in item if each is not None]
    wrong = [each for each in ids if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each < vocab_size]
    if wrong:
        raise ModelFileError(f"the end token {wrong[0]!r} lies outside the vocabulary of {vocab_size} tokens")
    return sorted(set(ids))


def _check_vocabulary(tokenizer: Iterable[Key], vocab_size: int) -> None:
    # Fewer tokens than rows are usual: embeddings are padded. More would be ids that have no row.
    n_tokens = max((len(value) for key, _, value in tokenizer if key == "tokenizer.ggml.tokens"), default=0)
    if n_tokens > vocab_size:
        raise ModelFileError(f"the tokenizer has {n_tokens} tokens, but the embedding has {vocab_size} rows")


def _ends_by_text(tokens: Iterable[Any], types: Iterable[Any], texts: Sequence[str] = _END_TEXTS) -> list[int]:
    pairs = enumerate(zip(tokens, types))
    return [index for index, (text, kind) in pairs if kind == _CONTROL and text in texts]


def _ends_by_text_of(tokenizer: Iterable[Key], texts: Sequence[str]) -> list[int]:
    tokens = next(value for key, _, value in tokenizer if key == "tokenizer.ggml.tokens") if texts else []
    return [index for index, text in enumerate(tokens) if text in texts]


def _ends_of_template(tokenizer: Iterable[Key], template: str) -> list[int]:
    # What a template puts behind each turn the model writes there, too, whether a configuration says so or not.
    rows = {key: value for key, _, value in tokenizer}
    texts = [text for text in _END_TEXTS if text in template]
    return _ends_by_text(rows["tokenizer.ggml.tokens"], rows["tokenizer.ggml.token_type"], texts)


def _template_text(value: Any) -> str:
    # Some models have several named templates; the one for plain conversation is called default.
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else ""


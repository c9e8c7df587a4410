# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext inspect``, and what a .rkllm file says about itself."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import click

from ..errors import ModelFileError
from .options import FILE


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the facts of a .rkllm file, ready for JSON. Its weights are not read.

    Raises
    ------
    ModelFileError
        The file is damaged, or a GGUF file of another kind.
    """
    from .._rkllm import GGUFFile

    with GGUFFile(path) as file:
        values = file.values
        kind = values.get("general.architecture")
        if kind != "rkllm":
            raise ModelFileError(
                f"{path}: is a GGUF file of architecture {kind!r}; rkllm-ext convert makes a .rkllm of it"
            )
        if values.get("general.type") == "prompt_cache":
            return _describe_prompt_cache(path, file)
        tokens = values.get("tokenizer.ggml.tokens")
        return {
            "path": os.fspath(path),
            "type": values.get("general.type"),
            "file_bytes": os.stat(path).st_size,
            "name": values.get("general.name"),
            **{
                key: values.get(f"rkllm.{key}")
                for key in ("version", "family", "producer", "source", "format", "algorithm", "platform")
            },
            "adapter_source": values.get("rkllm.adapter.source"),
            "spec": {key[11:]: value for key, value in values.items() if key.startswith("rkllm.spec.")},
            "tensors": _groups(file),
            "tokenizer": values.get("tokenizer.ggml.model"),
            "vocabulary": None if tokens is None else len(tokens),
            "end_tokens": [int(token) for token in values.get("rkllm.end_tokens", [])],
            "chat_template": "tokenizer.chat_template" in values,
        }


def has_chat_template(path: str | os.PathLike[str]) -> bool:
    """Return whether a .rkllm file has a chat template. Of the vendor's files nobody but their library knows."""
    from .._rkllm import GGUFFile, is_extended

    if not is_extended():
        return False
    with GGUFFile(path) as file:
        return "tokenizer.chat_template" in file.values


def _describe_prompt_cache(path: str | os.PathLike[str], file: Any) -> dict[str, Any]:
    values = file.values
    tokens = [int(token) for token in values.get("rkllm.cache.tokens", [])]
    return {
        "path": os.fspath(path),
        "type": "prompt_cache",
        "file_bytes": os.stat(path).st_size,
        "name": values.get("general.name"),
        **{key: values.get(f"rkllm.{key}") for key in ("version", "producer", "source", "format")},
        **{key: values.get(f"rkllm.cache.{key}") for key in ("model", "adapter", "kv_type")},
        "activations": values.get("rkllm.cache.activations", "auto"),  # older files do not say it
        "tokens": [token if token >= 0 else None for token in tokens],  # None: an embedding
        "layers": sum(name.endswith(".kv") for name in file.tensors),
        "logits": "logits" in file.tensors,
    }


def _groups(file: Any) -> list[dict[str, Any]]:
    """Return the tensors, those that differ only in the layer's number as one."""
    keys = ("rkllm.tensor.format", "rkllm.tensor.rows", "rkllm.tensor.cols")
    columns = [file.values.get(key, []) for key in keys]
    if any(len(column) != len(file.tensors) for column in columns):
        raise ModelFileError(f"{file.path}: its lists of tensors have another length than the file has tensors")
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for tensor, format, rows, cols in zip(file.tensors.values(), *columns):
        shape = [int(rows), int(cols)] if format else [int(cols)]
        name = re.sub(r"^blk\.\d+\.", "blk.*.", tensor.name)
        key = (name, format, *shape)
        group = groups.setdefault(
            key, {"name": name, "format": format or "plain", "shape": shape, "count": 0, "bytes": 0}
        )
        group["count"] += 1
        group["bytes"] += len(tensor.data)
    return list(groups.values())


@click.command("inspect", short_help="Print what a .rkllm file holds.")
@click.argument("model", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, as_json: bool) -> None:
    """Print what the .rkllm file MODEL, an adapter or a prompt cache holds."""
    facts = describe(model)
    click.echo(json.dumps(facts, indent=2) if as_json else _text(facts))


def _model_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("made by", f"{facts['producer']}, {facts['algorithm']}, for {facts['platform']}"),
        ("source", f"SHA-256 {facts['source']}"),
        ("format", facts["format"]),
        ("tokenizer", f"{facts['tokenizer']}, {facts['vocabulary']} tokens, ends with {facts['end_tokens']}"),
        ("template", "yes" if facts["chat_template"] else "no"),
        *((f"spec.{name}", str(value)) for name, value in facts["spec"].items()),
    ]


def _adapter_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("made by", facts["producer"]),
        ("for models of", f"SHA-256 {facts['source']}"),
        ("source", f"SHA-256 {facts['adapter_source']}"),
        ("format", facts["format"]),
    ]


def _prompt_cache_text(facts: dict[str, Any]) -> str:
    tokens = facts["tokens"]
    rows = [
        ("file", f"{facts['path']}, {facts['file_bytes'] / 1e6:.1f} MB, version {facts['version']}"),
        ("type", facts["type"]),
        ("name", facts["name"] or "-"),
        ("made by", facts["producer"]),
        ("source", f"SHA-256 {facts['source']}"),
        ("format", facts["format"]),
        ("model", facts["model"]),
        ("adapter", facts["adapter"] or "-"),
        ("activations", facts["activations"]),
        ("keys and values", f"{facts['kv_type']}, {facts['layers']} layers"),
        ("positions", f"{len(tokens)}, of these {tokens.count(None)} embeddings"),
        ("logits", "yes" if facts["logits"] else "no"),
    ]
    return "\n".join(f"{name:<26}{value}" for name, value in rows)


def _text(facts: dict[str, Any]) -> str:
    if facts["type"] == "prompt_cache":
        return _prompt_cache_text(facts)
    rows = [
        ("file", f"{facts['path']}, {facts['file_bytes'] / 1e6:.1f} MB, version {facts['version']}"),
        ("type", facts["type"] or "-"),
        ("name", facts["name"] or "-"),
        ("family", facts["family"] or "-"),
        *(_adapter_rows(facts) if facts["type"] == "adapter" else _model_rows(facts)),
    ]
    lines = [f"{name:<26}{value}" for name, value in rows]
    lines += ["", f"{'tensors':<30}{'count':>6}  {'format':<12}{'shape':<16}{'bytes':>14}"]
    for group in facts["tensors"]:
        shape = " x ".join(map(str, group["shape"]))
        lines.append(f"{group['name']:<30}{group['count']:>6}  {group['format']:<12}{shape:<16}{group['bytes']:>14,}")
    return "\n".join(lines)

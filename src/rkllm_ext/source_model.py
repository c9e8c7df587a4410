# SPDX-License-Identifier: Apache-2.0
"""A source model whose family is known: its spec, and its tensors under their canonical names."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arch import Located, ModelSpec, find_family, resolve
from .metadata import chat_template, model_keys
from .readers import Checkpoint, open_checkpoint
from .writer import Key


@dataclass(frozen=True)
class SourceFacts:
    """What a source model is; as text, one line for a log."""

    kind: str  # "huggingface" or "gguf"
    family: str
    n_layers: int
    n_parameters: int
    dtypes: tuple[str, ...]  # of its matrices, the one with most weights first
    tokenizer: str  # what it does, as `rkllm.tokenizer.model` of docs/format.md
    n_tokens: int
    has_chat_template: bool

    def __str__(self) -> str:
        size = f"{self.n_layers} layers, {self.n_parameters / 1e6:.1f} M parameters in {', '.join(self.dtypes)}"
        tokenizer = f"{self.tokenizer} tokenizer of {self.n_tokens} tokens"
        template = "with a chat template" if self.has_chat_template else "no chat template"
        return f"{self.kind} model, family {self.family}, {size}, {tokenizer}, {template}"


class SourceModel:
    """An open checkpoint that was resolved. Made by `open_model`.

    Attributes
    ----------
    checkpoint : Checkpoint
    spec : ModelSpec
    tensors : dict
        Canonical name -> shape and source, in the order in which a model is computed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        with self.naming():
            shapes = {name: checkpoint.shape(name) for name in checkpoint.tensor_names}
            self.spec: ModelSpec
            self.tensors: dict[str, Located]
            self.spec, self.tensors = resolve(checkpoint.config, checkpoint.kind, shapes)

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def n_parameters(self) -> int:
        """Return the number of weights, without tables that are computed."""
        return sum(math.prod(each.shape) for name, each in self.tensors.items() if not name.startswith("rope_inv_freq"))

    def tensor(self, name: str) -> SourceTensor:
        """Return a tensor by its canonical name."""
        return SourceTensor(self.checkpoint, name, self.tensors[name])

    def keys(self, *, format: str, algorithm: str, platform: str) -> list[Key]:
        """Return the keys of the converted model, see `metadata.model_keys`."""
        with self.naming():
            how = {"format": format, "algorithm": algorithm, "platform": platform}
            return model_keys(self.checkpoint, self.spec, **how)

    def facts(self) -> SourceFacts:
        """Return what the model is. Reads its tokenizer, but no weights.

        Raises
        ------
        ModelFileError, UnsupportedModelError
            As `metadata.model_keys`.
        """
        checkpoint = self.checkpoint
        keys = {name: value for name, _, value in self.keys(format="", algorithm="", platform="")}
        counts: Counter[str] = Counter()
        for each in self.tensors.values():
            if len(each.shape) == 2:
                for name, shape in each.source.wants(each.shape).items():
                    counts[checkpoint.dtype(name)] += math.prod(shape)
        return SourceFacts(
            kind=checkpoint.kind,
            family=find_family(checkpoint.config, checkpoint.kind).name,
            n_layers=self.spec.size("n_layers"),
            n_parameters=self.n_parameters,
            dtypes=tuple(name for name, _ in counts.most_common()),
            tokenizer=keys["rkllm.tokenizer.model"],
            n_tokens=len(keys["tokenizer.ggml.tokens"]),
            has_chat_template=bool(chat_template(checkpoint)),
        )

    def naming(self) -> AbstractContextManager[None]:
        """Let errors raised inside begin with the path of the source."""
        return self.checkpoint.naming()


class SourceTensor:
    """One canonical tensor, read when an algorithm asks for it (`quant.quantizer.Weights`)."""

    def __init__(self, checkpoint: Checkpoint, name: str, tensor: Located) -> None:
        self.name = name
        self.origin = ", ".join(tensor.source.wants(tensor.shape)) or "computed"
        self._checkpoint = checkpoint
        self._tensor = tensor

    def floats(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._tensor.source.build(self._checkpoint.load), np.float32)

    def stored(self) -> NDArray[Any]:
        # What moves rows only asks for nothing but their order, so bfloat16 can pass through it as uint16.
        if not self._tensor.source.moves_rows_only:
            return self.floats()
        return np.ascontiguousarray(self._tensor.source.build(self._checkpoint.load_stored))

    def codes(self) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
        # Codes and scales both have a row per output, so what moves rows moves them alike.
        source = self._tensor.source
        if not source.moves_rows_only:
            return None
        stored = {name: self._checkpoint.load_codes(name) for name in source.wants(self._tensor.shape)}
        found = {name: pair for name, pair in stored.items() if pair is not None}
        if len(found) < len(stored):
            return None
        codes = source.build(lambda name: found[name][0])
        scales = source.build(lambda name: found[name][1])
        return np.ascontiguousarray(codes.view(np.int8)), np.ascontiguousarray(scales, np.float32)


@contextmanager
def open_model(source: str | os.PathLike[str]) -> Iterator[SourceModel]:
    """Open a Hugging Face directory or a GGUF file and find out what it is.

    Raises
    ------
    ModelFileError
        There is no model, it is damaged, or its tensors do not fit its configuration.
    UnsupportedModelError
        Its family or one of its features is not supported.
    """
    with open_checkpoint(source) as checkpoint:
        yield SourceModel(checkpoint)

# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters: from an adapter's configuration and tensor shapes to the linear layers that it changes.

A layer's weight W becomes W + scale * B * A, with A [rank, in] and B [out, rank] (arXiv:2106.09685). An adapter names
its layers as the model's files do, so what a family knows about those says which rows of B belong to which layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelFileError, UnsupportedModelError
from .spec import Family, Located, Shape, Source

_SHOWN = 8  # names of each kind that an error lists
# Names of an adapter's tensors. The weight of the layer that they belong to is "<module>.weight".
_NAMES = {
    "huggingface": re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight"),
    "gguf": re.compile(r"(?P<module>.+)\.weight\.lora_(?P<side>[ab])"),
}
# Keys of adapter_config.json that say how the adapter was trained, or what its tensors say as well.
_HARMLESS = """
    auto_mapping base_model_name_or_path ephemeral_gpu_offload eva_config exclude_modules fan_in_fan_out inference_mode
    layers_pattern layers_to_transform lora_dropout megatron_core peft_version qalora_group_size revision runtime_config
    target_modules task_type
"""
_READ = "peft_type r lora_alpha rank_pattern alpha_pattern use_rslora init_lora_weights bias"
# Initial values that are taken out of the base model's weights, which the adapter then does not fit any more.
_CHANGED_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga")
_UNUSED_STARTS = "loftq_config corda_config lora_ga_config"  # left over where init_lora_weights is another


@dataclass(frozen=True)
class Pair:
    """What an adapter does to one linear layer of the model."""

    layer: str  # "blk.3.attn_q"
    shape: Shape  # of the layer's weight
    source: Source  # of that weight: what it does to its rows, it does to the rows of B
    a: str  # the adapter's tensors
    b: str
    rank: int
    scale: float


def resolve_adapter(
    config: Mapping[str, Any], kind: str, shapes: Mapping[str, Shape], family: Family, layers: Mapping[str, Located]
) -> list[Pair]:
    """Find out which layers an adapter changes.

    Parameters
    ----------
    config
        The content of adapter_config.json (kind ``"huggingface"``) or the key/values of a GGUF file (kind ``"gguf"``).
    kind
        ``"huggingface"`` or ``"gguf"``.
    shapes
        Tensor name -> shape of every tensor of the adapter.
    family
        The family of the base model.
    layers
        The weights of the model's linear layers: canonical name -> shape, and where it would come from in files of
        this kind. A source that several layers share is a fused matrix.

    Returns
    -------
    One entry for each layer that is changed, in the order of `layers`.

    Raises
    ------
    UnsupportedModelError
        The adapter is none of the plain LoRA kind; what it wants beyond that is named.
    ModelFileError
        The adapter is for another model: tensors name layers that the model does not have, or have other shapes.
    """
    scales = _PeftScales(config) if kind == "huggingface" else _GGUFScales(config, family)
    named = _sides(kind, shapes)
    pairs, used = [], set()
    for name, located in layers.items():
        for weight, shape in located.source.wants(located.shape).items():
            module = weight[: -len(".weight")]
            if module not in named:
                continue
            a, b = named[module]
            rank = scales.rank(module, shapes[a][0])
            _check_shapes(shapes, a, b, rank, shape)
            layer = name[: -len(".weight")]
            pairs.append(Pair(layer, located.shape, located.source, a, b, rank, scales.scale(module, rank)))
            used.add(module)
    unknown = [module for module in named if module not in used]
    if unknown:
        known = {weight[: -len(".weight")] for each in layers.values() for weight in each.source.wants(each.shape)}
        endings = sorted({module.rpartition(".")[2] for module in known})
        raise ModelFileError(
            f"the adapter changes {len(unknown)} modules that are no linear layers of this {family.name} model: "
            f"{_listed(unknown)}; it has layers 0 to {_last_layer(layers)} with {', '.join(endings)}"
        )
    return pairs


def _sides(kind: str, shapes: Mapping[str, Shape]) -> dict[str, tuple[str, str]]:
    """Return {module: names of its A and B}."""
    found: dict[str, dict[str, str]] = {}
    others = []
    for name in shapes:
        match = _NAMES[kind].fullmatch(name)
        if match is None:
            others.append(name)
        else:
            found.setdefault(match["module"], {})[match["side"].lower()] = name
    if others:
        raise UnsupportedModelError(
            f"the adapter has {len(others)} tensors that are no LoRA matrices of linear layers: {_listed(others)}"
        )
    halves = [name for sides in found.values() if len(sides) < 2 for name in sides.values()]
    if halves:
        raise ModelFileError(f"the adapter has one of two matrices only: {_listed(halves)}")
    if not found:
        raise ModelFileError("the adapter has no tensors")
    return {module: (sides["a"], sides["b"]) for module, sides in found.items()}


def _check_shapes(shapes: Mapping[str, Shape], a: str, b: str, rank: int, weight: Shape) -> None:
    rows, cols = weight
    for name, wanted in ((a, (rank, cols)), (b, (rows, rank))):
        if tuple(shapes[name]) != wanted:
            raise ModelFileError(
                f"tensor {name} is {list(shapes[name])}, but {list(wanted)} is needed: the layer is {rows} x {cols}, "
                f"the rank {rank}"
            )


class _PeftScales:
    """Rank and scale of each module as adapter_config.json has them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        _refuse_variants(config)
        self._rank, self._alpha = config.get("r"), config.get("lora_alpha")
        self._ranks, self._alphas = (_pattern(config, key) for key in ("rank_pattern", "alpha_pattern"))
        self._root = bool(config.get("use_rslora"))

    def rank(self, module: str, found: int) -> int:
        rank = _number(_chosen(self._ranks, module, self._rank), "r")
        if rank != found:
            raise ModelFileError(f"lora_A of {module} has {found} rows, but adapter_config.json says rank {rank:g}")
        return found

    def scale(self, module: str, rank: int) -> float:
        alpha = _number(_chosen(self._alphas, module, self._alpha), "lora_alpha")
        return alpha / (math.sqrt(rank) if self._root else rank)


class _GGUFScales:
    """The same for a GGUF adapter, whose tensors say the rank."""

    def __init__(self, config: Mapping[str, Any], family: Family) -> None:
        for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
            if config.get(key) != wanted:
                raise UnsupportedModelError(f"{key} is {config.get(key)!r}; a GGUF file with {wanted!r} is needed")
        if config.get("adapter.alora.invocation_tokens") is not None:
            raise UnsupportedModelError(
                "the adapter wants to be switched on by a token (aLoRA), which is not supported"
            )
        architecture = config.get("general.architecture")
        if architecture not in family.gguf_types:
            raise ModelFileError(
                f"the adapter is for the architecture {architecture!r}, but the model is of the {family.name} family "
                f"({', '.join(family.gguf_types)})"
            )
        self._alpha = _number(config.get("adapter.lora.alpha"), "adapter.lora.alpha")

    def rank(self, module: str, found: int) -> int:
        return found

    def scale(self, module: str, rank: int) -> float:
        return self._alpha / rank if self._alpha else 1.0  # llama.cpp's meaning of 0


def _refuse_variants(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"adapter_config.json: peft_type is {config.get('peft_type')!r}; LORA is supported")
    if config.get("bias", "none") != "none":
        raise UnsupportedModelError(
            f"adapter_config.json: bias is {config['bias']!r}: the adapter has trained biases, which are not supported"
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and _CHANGED_BASE.match(start):
        raise UnsupportedModelError(
            f"adapter_config.json: init_lora_weights is {start!r}, which changes the base model's weights; save the "
            "adapter for the unchanged model (PEFT: path_initial_model_for_weight_conversion)"
        )
    known = f"{_HARMLESS} {_READ} {_UNUSED_STARTS}".split()
    wanted = [key for key, value in config.items() if value and key not in known]
    if wanted:
        named = ", ".join(f"{key} = {config[key]!r}"[:80] for key in sorted(wanted)[:_SHOWN])
        raise UnsupportedModelError(f"adapter_config.json: {named}: not supported; plain LoRA is")


def _pattern(config: Mapping[str, Any], key: str) -> list[tuple[re.Pattern[str], Any]]:
    """Return the patterns of rank_pattern or alpha_pattern: a key means the end of a module's name, or with ^ all."""
    given = config.get(key) or {}
    if not isinstance(given, dict):
        raise ModelFileError(f"adapter_config.json: {key} is {given!r}; an object is needed")
    try:
        return [(re.compile(each if each.startswith("^") else rf"(.*\.)?({each})$"), given[each]) for each in given]
    except re.error as error:
        raise ModelFileError(f"adapter_config.json: {key} has {error.pattern!r}, which is no pattern") from None


def _chosen(patterns: list[tuple[re.Pattern[str], Any]], module: str, otherwise: Any) -> Any:
    return next((value for pattern, value in patterns if pattern.match(module)), otherwise)


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelFileError(f"the adapter's {key} is {value!r}; a number is needed")
    return value


def _last_layer(layers: Mapping[str, Located]) -> int:
    return max(int(name.split(".")[1]) for name in layers if name.startswith("blk."))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

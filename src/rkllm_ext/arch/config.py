# SPDX-License-Identifier: Apache-2.0
"""From a configuration (``config.json`` or GGUF key/values) to a spec and the rotary frequencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ModelFileError, UnsupportedModelError
from .rope import LONGROPE, inverse_frequencies, longrope, longrope_fields, scaled_frequencies
from .spec import Constant, Every, Family, Key, ModelSpec, Rule, Shape, Value

Config = Mapping[str, Any]
Get = Callable[[str], Any]  # the value of a key, None when absent
_OPTIONAL = (  # derived or off when absent
    "head_dim",
    "rope_dim",
    "sliding_window",
    "attn_softcap",
    "logit_softcap",
    "rope_doubling",
    "rope_original_context",
    "logn_context",
)


def where(kind: str) -> str:
    """Return what an error calls the configuration."""
    return "config.json" if kind == "huggingface" else "the GGUF header"


def hf_value(config: Config, family: Family, key: str) -> Any:
    """Return a configuration's value, or what its absence means for the family."""
    rope = config.get("rope_parameters")  # where transformers 5 keeps what concerns the rotation
    value = rope.get(key) if isinstance(rope, Mapping) else None
    value = config.get(key) if value is None else value
    return family.hf_defaults.get(key) if value is None else value


def gguf_value(config: Config, key: str) -> Any:
    """Return a key/value of the file's own architecture, None when absent."""
    return config.get(f"{config['general.architecture']}.{key}")


def read_spec(
    config: Config, kind: str, family: Family, shapes: Mapping[str, Shape]
) -> tuple[ModelSpec, dict[str, Constant]]:
    """Return the spec and the sources of the rotary frequencies; arguments and errors as in `arch.resolve`."""
    _refuse_other_values(config, kind, family)
    values = _hf_values(config, family) if kind == "huggingface" else _gguf_values(config, family, shapes)
    base, scaling = _hf_rope(config, family) if kind == "huggingface" else _gguf_rope(config, "rope.freq_base")
    values.setdefault("rope_dim", values["head_dim"])
    sizes = ModelSpec({**values, **family.constants})  # refuses impossible sizes before anything is computed from them
    tables, rope_fields = _rotary_tables(config, kind, family, sizes, base, scaling, shapes)
    if sizes.get("rope_local"):
        if rope_fields:
            raise UnsupportedModelError(
                f"{where(kind)}: the rope scaling depends on the length; "
                f"models of the {family.name} family are only supported without"
            )
        local = inverse_frequencies(_local_base(config, kind, family), sizes.size("rope_dim"))
        tables["rope_inv_freq_local.weight"] = Constant(local)
    return ModelSpec({"attn_scale": sizes.size("head_dim") ** -0.5, **sizes, **rope_fields}), tables


def _rotary_tables(
    config: Config,
    kind: str,
    family: Family,
    sizes: ModelSpec,
    base: float,
    scaling: Mapping[str, Any],
    shapes: Mapping[str, Shape],
) -> tuple[dict[str, Constant], dict[str, Value]]:
    rope_dim, max_context = sizes.size("rope_dim"), sizes.size("max_context")
    if kind == "gguf" and "rope_factors_long.weight" in shapes:  # longrope in GGUF files: divisors as tensors
        plain = inverse_frequencies(base, rope_dim)
        # Files of MiniCPM3 do not say; the published model has one length.
        original = gguf_value(config, "rope.scaling.original_context_length") or max_context
        magnitude = gguf_value(config, "rope.scaling.attn_factor")
        fields = longrope_fields(original, max_context, 1.0 if magnitude is None else magnitude, where(kind))
        short, long = (Constant(plain, f"rope_factors_{name}.weight") for name in ("short", "long"))
    elif scaling.get("rope_type", scaling.get("type")) in LONGROPE:
        original = config.get("original_max_position_embeddings")
        tables, fields = longrope(base, rope_dim, scaling, max_context, original, where(kind))
        short, long = map(Constant, tables)
    else:
        frequencies, fields = scaled_frequencies(base, rope_dim, scaling, max_context, where(kind))
        # llama3 scaling in GGUF files: one factor per frequency
        divisor = "rope_freqs.weight" if kind == "gguf" and "rope_freqs.weight" in shapes else ""
        return {"rope_inv_freq.weight": Constant(frequencies, divisor)}, fields
    if family.longrope_by_limit and max_context > int(fields["rope_original_context"]):
        return {"rope_inv_freq.weight": long}, {"rope_magnitude": fields["rope_magnitude"]}
    return {"rope_inv_freq.weight": short, "rope_inv_freq_long.weight": long}, fields


def _refuse_other_values(config: Config, kind: str, family: Family) -> None:
    for key, allowed in (family.hf_only if kind == "huggingface" else family.gguf_only).items():
        value = hf_value(config, family, key) if kind == "huggingface" else gguf_value(config, key)
        if any(each not in allowed for each in (value if isinstance(value, list) else [value])):
            named = ", ".join(str(item) for item in allowed if item is not None)
            remedy = f"supported: {named}" if named else "only models without it are supported"
            raise UnsupportedModelError(
                f"{where(kind)}: {key} is {value!r}, which is not supported for the {family.name} family; {remedy}"
            )


def _hf_values(config: Config, family: Family) -> dict[str, Any]:
    found = _found(family.hf_keys, lambda key: hf_value(config, family, key), "huggingface")
    for field, key in family.hf_keys.items():
        # null says that there is none, where an absent key means the family's default
        if field in (*_OPTIONAL, "n_kv_heads") and isinstance(key, str) and config.get(key, 0) is None:
            found[field] = None
    return _checked(found, family, "huggingface")


def _gguf_values(config: Config, family: Family, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    found = _found(family.gguf_keys, lambda key: gguf_value(config, key), "gguf")
    if found["vocab_size"] is None and shapes.get("token_embd.weight"):
        found["vocab_size"] = shapes["token_embd.weight"][0]
    values = _checked(found, family, "gguf")
    rope_dim, value_dim = values.get("rope_dim"), gguf_value(config, "attention.value_length")
    if not family.partial_rotary and rope_dim not in (None, values["head_dim"]):
        raise UnsupportedModelError(
            f"{where('gguf')}: {rope_dim} of the {values['head_dim']} dimensions of a head are rotated; "
            f"models of the {family.name} family rotate all"
        )
    if value_dim not in (None, values["head_dim"]):
        raise UnsupportedModelError(
            f"{where('gguf')}: a key is {values['head_dim']} wide and a value {value_dim}; equal widths are needed"
        )
    return values


def _found(keys: Mapping[str, Key], get: Get, kind: str) -> dict[str, Any]:
    def value(key: Key) -> Any:
        if isinstance(key, Every):
            return _period(key, get, kind)
        return _computed(key, get, kind) if isinstance(key, Rule) else get(key)

    return {field: value(key) for field, key in keys.items()}


def _computed(rule: Rule, get: Get, kind: str) -> Any:
    values = [get(key) for key in rule.keys]
    if any(value is None for value in values) or (rule.when and not get(rule.when)):
        return None
    numbers = [_number(value, key, kind) for value, key in zip(values, rule.keys)]
    try:
        return rule.of(*numbers)
    except (ArithmeticError, ValueError):
        shown = ", ".join(f"{key} = {value}" for key, value in zip(rule.keys, values))
        raise ModelFileError(f"{where(kind)}: {shown} cannot be used") from None


def _period(every: Every, get: Get, kind: str) -> Any:
    """Return p, so that the layers p - 1, 2p - 1, ... are the marked ones; 0 when none is."""
    listed, n_layers = get(every.listed), get(every.n_layers)
    if listed is None:
        period = get(every.period)
        if type(period) is not int or not 0 < period < 2**31:
            raise ModelFileError(f"{where(kind)}: {every.period} is {period!r}; a whole number from 1 is needed")
        return period
    if not isinstance(listed, list) or not isinstance(n_layers, int) or not 0 < n_layers <= len(listed):
        raise ModelFileError(f"{where(kind)}: {every.listed} is {listed!r}; a list of {n_layers} layers is needed")
    layers = listed[:n_layers]
    unknown = [each for each in layers if each not in (every.marked, every.other)]
    marked = [i for i, each in enumerate(layers) if each == every.marked]
    period = marked[0] + 1 if marked else 0
    if unknown or (period and marked != list(range(period - 1, n_layers, period))):
        raise UnsupportedModelError(
            f"{where(kind)}: {every.listed} is {layers}; supported: {every.other!r}, and {every.marked!r} at every so "
            "many layers"
        )
    return period


def _checked(found: dict[str, Any], family: Family, kind: str) -> dict[str, Any]:
    """Return the values that are there, with the sizes that follow from others."""
    keys = {
        field: key if isinstance(key, str) else ", ".join(key.keys)
        for field, key in (family.hf_keys if kind == "huggingface" else family.gguf_keys).items()
    }
    if found["n_kv_heads"] is None:
        found["n_kv_heads"] = found["n_heads"]
    missing = [keys[field] for field, value in found.items() if value is None and field not in _OPTIONAL]
    if missing:
        raise ModelFileError(f"{where(kind)}: missing: {', '.join(missing)}")
    for field, value in found.items():
        fits = isinstance(value, str) if field == "activation" else _is_number(value) or value is None
        if not fits:
            raise ModelFileError(f"{where(kind)}: {keys[field]} is {value!r}, which cannot be used")
    values = {field: value for field, value in found.items() if value is not None}
    if "head_dim" not in values:
        dim, n_heads = values["dim"], values["n_heads"]
        if n_heads < 1 or dim % n_heads:
            raise ModelFileError(
                f"{where(kind)}: {n_heads} heads do not divide the width {dim}, and the width of a head is not given"
            )
        values["head_dim"] = dim // n_heads
    return values


def _hf_rope(config: Config, family: Family) -> tuple[float, Mapping[str, Any]]:
    # transformers 5 keeps base and scaling together in rope_parameters
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if family.hf_local_rope_base and isinstance(scaling, Mapping):
        scaling = scaling.get("full_attention") or scaling  # or, where kinds of layers differ, for each kind
    if not isinstance(scaling, Mapping):
        raise ModelFileError(f"{where('hf')}: the rope scaling is {scaling!r}; an object is needed")
    base = scaling.get("rope_theta")
    if base is None:
        keys = {"base": family.hf_rope_base}
        base = _found(keys, lambda key: hf_value(config, family, key), "huggingface")["base"]
    return _number(base, "rope_theta", "huggingface"), scaling


def _local_base(config: Config, kind: str, family: Family) -> float:
    """Return the rotary base of the layers that are not global. No scaling of theirs is known."""
    if kind == "gguf":
        return _gguf_rope(config, "rope.freq_base_swa")[0]
    parameters = config.get("rope_parameters") or {}
    scaling = parameters.get("sliding_attention") or {} if isinstance(parameters, Mapping) else parameters
    if not isinstance(scaling, Mapping) or scaling.get("rope_type", "default") != "default":
        raise UnsupportedModelError(
            f"{where(kind)}: layers with a sliding window have the rope scaling {scaling!r}; "
            "only models without it are supported"
        )
    key = family.hf_local_rope_base
    return _number(scaling.get("rope_theta", hf_value(config, family, key)), key, kind)


def _gguf_rope(config: Config, key: str) -> tuple[float, Mapping[str, Any]]:
    base = gguf_value(config, key)
    kind, factor = gguf_value(config, "rope.scaling.type"), gguf_value(config, "rope.scaling.factor")
    if kind is None and gguf_value(config, "rope.scale_linear") is not None:  # the key's older name
        kind, factor = "linear", gguf_value(config, "rope.scale_linear")
    return _number(10000.0 if base is None else base, key, "gguf"), {"type": kind, "factor": factor}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any, key: str, kind: str) -> float:
    if not _is_number(value):
        raise ModelFileError(f"{where(kind)}: {key} is {value!r}; a number is needed")
    return float(value)

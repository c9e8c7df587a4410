# SPDX-License-Identifier: Apache-2.0
"""Model families as data, and `resolve`: from a checkpoint's configuration and tensor shapes to a spec and sources.

A family is one module of this package that holds a `Family`; there is no list to edit.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..errors import ModelFileError, UnsupportedModelError
from .config import Config, hf_value, read_spec, where
from .spec import Family, Located, ModelSpec, Shape, Slot, Source, Tensor

__all__ = ["Family", "Located", "ModelSpec", "Source", "families", "find_family", "locate_all", "resolve"]

_SHOWN = 20  # tensors of each kind that an error lists


@functools.cache
def families() -> tuple[Family, ...]:
    """Return all families, by name."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, Family):
                found[value.name] = value
    return tuple(found[name] for name in sorted(found))


def find_family(config: Config, kind: str) -> Family:
    """Return the family of a configuration (arguments as in `resolve`).

    Raises
    ------
    ModelFileError
        The configuration does not name its family.
    UnsupportedModelError
        No family has that name; the nearest known ones are named.
    """
    key = "general.architecture" if kind == "gguf" else "model_type"
    name = config.get(key)
    if not isinstance(name, str):
        raise ModelFileError(f"{where(kind)}: {key} is missing, so the model's family is unknown")
    known = {each: family for family in families() for each in _types(family, kind)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    nearest = f"nearest known: {', '.join(near)}; " if near else ""
    raise UnsupportedModelError(
        f"{where(kind)}: the family {name!r} is not supported ({nearest}all known: {', '.join(sorted(known))})"
    )


def resolve(config: Mapping[str, Any], kind: str, shapes: Mapping[str, Shape]) -> tuple[ModelSpec, dict[str, Located]]:
    """Find out what a checkpoint is and where each canonical tensor comes from.

    Parameters
    ----------
    config
        The content of ``config.json`` (kind ``"huggingface"``) or the key/values of a GGUF file (kind ``"gguf"``).
    kind
        ``"huggingface"`` or ``"gguf"``.
    shapes
        Tensor name -> shape as numpy has it (rows first), of every tensor of the checkpoint.

    Returns
    -------
    The spec, and {canonical name: shape and source} in the order in which a model is computed.

    Raises
    ------
    UnsupportedModelError
        The family, or a feature that the configuration asks for, is not supported.
    ModelFileError
        The configuration contradicts itself, or tensors are missing, surplus or of another shape; all are listed.
    """
    family = find_family(config, kind)
    spec, tables = read_spec(config, kind, family, shapes)
    if spec.size("n_layers") > len(shapes):
        raise ModelFileError(f"{where(kind)}: {spec['n_layers']} layers, but the checkpoint has {len(shapes)} tensors")
    tensors = {name: Located(table.values.shape, table) for name, table in tables.items()}
    wanted = {each: shape for table in tables.values() for each, shape in table.wants(table.values.shape).items()}
    spare: set[str] = set()
    for name, slot, source in _slots(family, kind, spec):
        shape = spec.shape(slot.shape)
        needs = source.wants(shape)
        present = all(each in shapes for each in needs)
        if _is_wanted(slot, config, kind, family, present):
            tensors[name] = Located(shape, source)
            wanted.update(needs)
        elif slot.spare:
            spare.update(needs)
    _compare(wanted, {name: shape for name, shape in shapes.items() if name not in spare}, family, kind)
    return spec, tensors


def locate_all(family: Family, kind: str, spec: ModelSpec) -> dict[str, Located]:
    """Return where each canonical tensor that a model of this spec can have comes from in files of a kind."""
    return {name: Located(spec.shape(slot.shape), source) for name, slot, source in _slots(family, kind, spec)}


def _types(family: Family, kind: str) -> tuple[str, ...]:
    return family.gguf_types if kind == "gguf" else family.hf_types


def _slots(family: Family, kind: str, spec: ModelSpec) -> Iterator[tuple[str, Slot, Source]]:
    # What stands before the layers in the family's table, then layer by layer, then the rest.
    names = list(family.tensors)
    layered = [name for name in names if "{i}" in name]
    first = names.index(layered[0])
    plain = [name for name in names if "{i}" not in name]
    plan = [(name, 0) for name in plain[:first]]
    plan += [(name, i) for i in range(spec.size("n_layers")) for name in layered]
    plan += [(name, 0) for name in plain[first:]]
    for name, i in plan:
        slot = family.tensors[name]
        source = slot.hf if kind == "huggingface" else slot.gguf or name
        source = Tensor(source) if isinstance(source, str) else source
        yield name.format(i=i), slot, source.at(i, spec)


def _is_wanted(slot: Slot, config: Config, kind: str, family: Family, present: bool) -> bool:
    if not slot.when:
        return True
    if kind == "gguf":
        return present
    key = slot.when.rpartition(" ")[2]
    return bool(hf_value(config, family, key)) != slot.when.startswith("not ")


def _compare(wanted: Mapping[str, Shape], found: Mapping[str, Shape], family: Family, kind: str) -> None:
    missing = [f"{name} {list(shape)}" for name, shape in wanted.items() if name not in found]
    misshapen = [
        f"{name} expected {list(shape)} found {list(found[name])}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != shape
    ]
    surplus = [
        f"{name} {list(shape)}"
        for name, shape in found.items()
        if name not in wanted and not any(fnmatchcase(name, pattern) for pattern in family.ignored)
    ]
    titles = {"missing": missing, "of another shape": misshapen, "surplus": surplus}
    problems = [f"{len(names)} {title}: {_listed(names)}" for title, names in titles.items() if names]
    if problems:
        raise ModelFileError(f"the tensors do not fit {where(kind)} (family {family.name}): {'; '.join(problems)}")


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more

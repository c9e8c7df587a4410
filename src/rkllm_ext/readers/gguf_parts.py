# SPDX-License-Identifier: Apache-2.0
"""A model in several GGUF files, as llama.cpp's ``llama-gguf-split`` and the `gguf` package write them.

Their names end in ``-00001-of-00003.gguf``. The first part has the model's keys; each says with ``split.no`` (from 0)
and ``split.count`` which one it is, and with ``split.tensors.count`` how many tensors all parts have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from .checkpoint import Codes, Float32, Stored
from .gguf import GGUFTensors

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"


class GGUFParts:
    """The tensors of all parts of a model (`checkpoint.TensorSource`).

    Attributes
    ----------
    values : dict
        The keys of the first part, without those about parts.

    Raises
    ------
    ModelFileError
        A part is damaged, or they do not belong together.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._of: dict[str, GGUFTensors] = {}
        with ExitStack() as opened:
            parts = []
            for number, path in enumerate(paths):
                part = GGUFTensors(path)
                opened.callback(part.close)
                self._add(part, path, number, len(paths))
                parts.append(part)
            total = parts[0].values.get(_TENSORS, len(self._of))
            if total != len(self._of):
                raise ModelFileError(
                    f"{paths[0]}: the {len(paths)} parts have {len(self._of)} tensors, but there should be {total}; "
                    "download them again"
                )
            self._opened = opened.pop_all()
        self.values: dict[str, Any] = {
            name: value for name, value in parts[0].values.items() if name not in (_COUNT, _NUMBER, _TENSORS)
        }

    def names(self) -> list[str]:
        return list(self._of)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._part(name).shape(name)

    def dtype(self, name: str) -> str:
        return self._part(name).dtype(name)

    def load(self, name: str) -> Float32:
        return self._part(name).load(name)

    def load_stored(self, name: str) -> Stored:
        return self._part(name).load_stored(name)

    def load_codes(self, name: str) -> Codes | None:
        return self._part(name).load_codes(name)

    def close(self) -> None:
        self._opened.close()

    def _add(self, part: GGUFTensors, path: Path, number: int, count: int) -> None:
        found = part.values.get(_NUMBER), part.values.get(_COUNT)
        if found != (number, count):
            raise ModelFileError(
                f"{path}: says {_NUMBER} {found[0]}, {_COUNT} {found[1]}, which is not part {number + 1} of {count}; "
                "download it again"
            )
        for name in part.names():
            if name in self._of:
                raise ModelFileError(f"{path}: tensor '{name}' is in an earlier part, too; download them again")
            self._of[name] = part

    def _part(self, name: str) -> GGUFTensors:
        try:
            return self._of[name]
        except KeyError:
            raise ModelFileError(f"tensor '{name}' is not in the checkpoint") from None


def open_gguf(path: Path) -> tuple[GGUFTensors | GGUFParts, dict[str, Path]]:
    """Open a GGUF file, with all other parts if it is one of several.

    Returns
    -------
    tensors : GGUFTensors or GGUFParts
    files : dict
        What was opened, as `Checkpoint.files` names it.

    Raises
    ------
    ModelFileError
        A file is missing or damaged.
    """
    tensors = GGUFTensors(path)
    count = tensors.values.get(_COUNT, 1)
    if not isinstance(count, int) or count <= 1:
        return tensors, {"model.gguf": path}
    tensors.close()
    paths = _paths(path, count)
    return GGUFParts(paths), {f"model-{number:05}.gguf": each for number, each in enumerate(paths, 1)}


def whole_name(name: str) -> str:
    """Return what the files of one model have in common: the name without the number of the part."""
    found = _NAME.fullmatch(name)
    return f"{found[1]}-of-{found[3]}" if found else name


def _paths(path: Path, count: int) -> list[Path]:
    found = _NAME.fullmatch(path.name)
    if not found or int(found[3]) != count:
        raise ModelFileError(
            f"{path}: is one of {count} parts of a model, whose names must end in -00001-of-{count:05}.gguf and so on; "
            "give it its name back"
        )
    paths = [path.with_name(f"{found[1]}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    for each in paths:
        if not each.is_file():
            raise ModelFileError(f"{path.parent}: part {each.name} is missing; download it again")
    return paths

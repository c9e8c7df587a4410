# SPDX-License-Identifier: Apache-2.0
"""The weight formats as the compiled library lists them, and which of them fit a matrix or a platform."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .. import _rkllm
from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    from .._rkllm import Format


@dataclass(frozen=True)
class Platform:
    """What a target can run: patterns of format names, and its number of NPU cores (0: it has no NPU)."""

    formats: tuple[str, ...]
    max_npu_cores: int


PLATFORMS: Mapping[str, Platform] = {
    "rk3588": Platform(("w8a8*", "fp16"), 3),
    "rk3576": Platform(("w4a16*", "w8a8", "fp16"), 2),
    "cpu": Platform(("*",), 0),
}


def formats() -> dict[str, Format]:
    """Return all weight formats by name, in the library's order."""
    return {row.name: row for row in _rkllm.formats()}


def offered_names() -> list[str]:
    """Return the names that can be asked for; the other formats serve embeddings and output matrices."""
    return [row.name for row in formats().values() if row.offered]


def find_format(name: str, offered_only: bool = True) -> Format:
    """Return the format of that name.

    Raises
    ------
    InvalidArgumentError
        There is none; the message names those there are.
    """
    known = offered_names() if offered_only else list(formats())
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidArgumentError(f"the format {name!r} does not exist; {hint}known: {', '.join(known)}")
    return formats()[name]


def check_groups(matrices: Mapping[str, tuple[Format, int]]) -> None:
    """Refuse groups that do not divide a matrix.

    Parameters
    ----------
    matrices
        Tensor name -> (format, columns).

    Raises
    ------
    InvalidArgumentError
        A group does not divide the columns; the first such layer and both numbers are named, and what would fit.
    """
    wrong = {name: entry for name, entry in matrices.items() if entry[0].group and entry[1] % entry[0].group}
    if not wrong:
        return
    name, (format, columns) = next(iter(wrong.items()))
    widths = {columns for row, columns in matrices.values() if row == format}
    fitting = [
        row.name
        for row in formats().values()
        if row.offered and not (row.group and any(width % row.group for width in widths))
    ]
    others = f" (nor those of {len(wrong) - 1} other matrices)" if len(wrong) > 1 else ""
    raise InvalidArgumentError(
        f"{name}: its {columns} input columns are no multiple of the group {format.group} of {format.name}{others}; "
        f"formats that fit: {', '.join(fitting)}"
    )


def check_platform(platform: str, format: str, num_npu_core: int | None) -> int:
    """Check a format and a number of NPU cores against a platform and return the number of cores.

    None means all cores of the platform.

    Raises
    ------
    InvalidArgumentError
        The platform is unknown, does not run the format, or has another number of cores.
    """
    if platform not in PLATFORMS:
        raise InvalidArgumentError(f"the platform {platform!r} does not exist; known: {', '.join(PLATFORMS)}")
    rules = PLATFORMS[platform]
    fitting = [name for name in offered_names() if any(fnmatchcase(name, pattern) for pattern in rules.formats)]
    if format not in fitting:
        raise InvalidArgumentError(f"{platform} does not run {format}; it runs {', '.join(fitting)}")
    if num_npu_core is None:
        return rules.max_npu_cores
    lowest = min(1, rules.max_npu_cores)
    if (
        isinstance(num_npu_core, bool)
        or not isinstance(num_npu_core, int)
        or not (lowest <= num_npu_core <= rules.max_npu_cores)
    ):
        cores = f"{lowest} to {rules.max_npu_cores}" if rules.max_npu_cores else "no NPU"
        raise InvalidArgumentError(f"num_npu_core is {num_npu_core!r}, but {platform} has {cores}")
    return num_npu_core

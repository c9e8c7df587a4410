# SPDX-License-Identifier: Apache-2.0
"""Which release a librkllmrt.so of the vendor's is, and whether its interface can be driven.

Releases share their names and their SONAME, but not their structs. The functions that a library has tell which releases
it can be; one of these is in its file as a text. docs/vendor.md has the generations of the interface.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .errors import InvalidArgumentError

__all__ = ["VARIABLE", "Release", "identify", "refusal"]

#: Names the release where a library's file does not.
VARIABLE = "RKLLM_EXT_VENDOR_RELEASE"


class Release(NamedTuple):
    """A release of the vendor's library.

    Attributes
    ----------
    version
        "1.2.3"; "1.1.x" or the like where the file does not say more; "unknown".
    generation
        The letter of its interface, for which there is a translation unit; "" when it is not driven.
    """

    version: str
    generation: str


class _Series(NamedTuple):
    function: str  # came with these releases
    versions: str  # that have it and not the function of the next series, as a regular expression
    name: str  # of the series
    generation: str = ""  # of all of them


#: Newest first.
_SERIES = (
    _Series("rkllm_get_kv_cache_size", r"1\.2\.[1-9]\d*|1\.[3-9]\.\d+", "1.2.1 or later"),
    _Series("rkllm_set_chat_template", r"1\.2\.0|1\.2\.1b1", "1.2.0"),
    _Series("rkllm_run_async", r"1\.1\.\d+", "1.1.x", "C"),
    _Series("rkllm_abort", r"1\.0\.[12]", "1.0.1"),
    _Series("rkllm_init", r"1\.0\.0", "1.0.0"),
)
#: Of the newest series single releases: what comes after them is not known.
_GENERATIONS = {"1.2.1": "F", "1.2.2": "F", "1.2.3": "F", "1.3.0": "G"}
_DRIVEN = "1.1.0 - 1.1.4, 1.2.1 - 1.2.3 and 1.3.0"


def identify(has: Callable[[str], bool], file: bytes, said: str = "") -> Release:
    """Return the release of a library.

    Parameters
    ----------
    has
        Whether the library exports a function.
    file
        The bytes of its file.
    said
        The release as somebody says who knows; "": nobody.

    Raises
    ------
    InvalidArgumentError
        What is said contradicts the functions.
    """
    series = next((series for series in _SERIES if has(series.function)), None)
    if series is None:
        return Release("unknown", "")
    if said:
        if not re.fullmatch(series.versions, said):
            raise InvalidArgumentError(f"{VARIABLE} is {said}, but the library has the functions of {series.name}")
        return _release(series, said)
    pattern = series.versions.encode()
    # What follows "version:" is the library's own; a text alone may also be of something that is built into it. Before
    # a text is the end of another, or, before a file's first one, anything: the last instruction of the code.
    for context in (rb"version: ?v?(%s)(?![\d.])", rb"(?<![ -~])v?(%s)(?:b\d+)?(?=\0)"):
        found = {_release(series, text.decode()) for text in re.findall(context % pattern, file)}
        if len({release.generation for release in found}) == 1:
            return max(found)
    return Release(series.name, series.generation)


def _release(series: _Series, version: str) -> Release:
    return Release(version, series.generation or _GENERATIONS.get(version, ""))


def refusal(path: str, release: Release) -> str:
    """Return why a library is not driven, and what to do."""
    instead = f"put one of {_DRIVEN} first in LD_LIBRARY_PATH, or none, which leaves rkllm_ext's own"
    if release.version == "unknown":
        return f"{path} is no RKLLM library that rkllm_ext knows; {instead}"
    if release.version == _SERIES[0].name:
        return (
            f"{path} is the vendor's library {release.version}, and its file does not say which; set {VARIABLE} to its "
            f"release if that is one of 1.2.1 - 1.2.3 or 1.3.0, or {instead}"
        )
    return f"{path} is the vendor's library {release.version}, whose interface rkllm_ext does not drive; {instead}"

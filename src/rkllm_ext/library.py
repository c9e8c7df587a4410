# SPDX-License-Identifier: Apache-2.0
"""Which librkllmrt.so the module runs on: rkllm_ext's own, or the vendor's and of which release."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Library", "library_in_use", "vendor_release"]

#: A function that came with a release -> the releases that have it and not the next one's, and what to call these.
#: Newest first.
_RELEASES = (
    (b"rkllm_get_kv_cache_size", rb"1\.2\.[1-9]\d*|1\.[3-9]\.\d+", "1.2.1 or later"),
    (b"rkllm_set_chat_template", rb"1\.2\.[01]", "1.2.0"),
    (b"rkllm_run_async", rb"1\.1\.\d+", "1.1.x"),
    (b"rkllm_init", rb"1\.0\.\d+", "1.0.x"),
)


@dataclass(frozen=True)
class Library:
    """The library under the module."""

    path: str
    version: str
    own: bool
    isas: tuple[str, ...] = ()  # of rkllm_ext's own: what this processor runs, weakest first
    isa: str = ""  # the one in use


def library_in_use() -> Library:
    """Return the library that the dynamic loader gave to the module.

    Raises
    ------
    ImportError
        The module cannot be loaded, or is not built.
    InvalidArgumentError
        RKLLM_EXT_ISA names an instruction set that is not there.
    """
    from . import _rkllm

    path = _rkllm.library_path()
    if not _rkllm.is_extended():
        return Library(path, vendor_release(Path(path).read_bytes()), own=False)
    return Library(path, _rkllm.version(), True, tuple(_rkllm.isas()), _rkllm.active_isa())


def vendor_release(file: bytes) -> str:
    """Return the release of a library of the vendor's, "1.1.4", or "1.1.x" where the bytes of its file do not say.

    The functions that it has tell the releases that it can be, and one of these is in the file as a text.
    """
    for function, releases, name in _RELEASES:
        if function + b"\0" in file:
            said = re.search(rb"version: ?v?(" + releases + rb")(?![\d.])", file)
            alone = re.search(rb"\0v?(" + releases + rb")(?:b\d+)?\0", file)
            found = said or alone
            return found.group(1).decode() if found else name
    return "unknown"

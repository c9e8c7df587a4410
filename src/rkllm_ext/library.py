# SPDX-License-Identifier: Apache-2.0
"""Which librkllmrt.so the module runs on: rkllm_ext's own, or the vendor's and of which release."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UnsupportedByRuntimeError

__all__ = ["Library", "library_in_use", "need_own"]


@dataclass(frozen=True)
class Library:
    """The library under the module."""

    path: str
    version: str
    own: bool
    generation: str = ""  # of the interface of one of the vendor's; "": it is not driven
    isas: tuple[str, ...] = ()  # of rkllm_ext's own: what this processor runs, weakest first
    isa: str = ""  # the one in use


def need_own(what: str) -> None:
    """Refuse what only rkllm_ext's own library can do, before a model is loaded.

    Raises
    ------
    UnsupportedByRuntimeError
        Another one is in use.
    """
    from . import _rkllm

    if not _rkllm.is_extended():
        raise UnsupportedByRuntimeError(
            f"{what} needs rkllm_ext's own library; LD_LIBRARY_PATH puts another one first ({_rkllm.library_path()})"
        )


def library_in_use() -> Library:
    """Return the library that the dynamic loader gave to the module.

    Raises
    ------
    ImportError
        The module cannot be loaded, or is not built.
    InvalidArgumentError
        RKLLM_EXT_ISA names an instruction set that is not there, or RKLLM_EXT_VENDOR_RELEASE a release that the
        library cannot be.
    """
    from . import _rkllm

    path = _rkllm.library_path()
    if not _rkllm.is_extended():
        release = _rkllm.library_release()
        return Library(path, release.version, False, release.generation)
    return Library(path, _rkllm.version(), True, isas=tuple(_rkllm.isas()), isa=_rkllm.active_isa())

# SPDX-License-Identifier: Apache-2.0
"""An open implementation of Rockchip's RKLLM SDK: convert, quantize and run language models.

Names are resolved when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rkllm_ext import errors
    from rkllm_ext._rkllm import Multimodal, Piece, Tokenizer
    from rkllm_ext.convert import convert
    from rkllm_ext.errors import (
        AbortedError,
        BusyError,
        ContextFullError,
        InvalidArgumentError,
        ModelFileError,
        OutOfMemoryError,
        RKLLMError,
        UnsupportedByRuntimeError,
        UnsupportedModelError,
    )
    from rkllm_ext.llm import LLM
    from rkllm_ext.lora import convert_lora
    from rkllm_ext.results import Generation, Info, Perf, TokenLogprobs
    from rkllm_ext.session import Session, decode_together, step_together
    from rkllm_ext.stream import Stream

    __version__: str

__all__ = [
    "LLM",
    "AbortedError",
    "BusyError",
    "ContextFullError",
    "Generation",
    "Info",
    "InvalidArgumentError",
    "ModelFileError",
    "Multimodal",
    "OutOfMemoryError",
    "Perf",
    "Piece",
    "RKLLMError",
    "Session",
    "Stream",
    "TokenLogprobs",
    "Tokenizer",
    "UnsupportedByRuntimeError",
    "UnsupportedModelError",
    "__version__",
    "convert",
    "convert_lora",
    "decode_together",
    "errors",
    "get_include",
    "library_path",
    "step_together",
]

_MODULES = {
    "LLM": "llm",
    "Generation": "results",
    "Info": "results",
    "Multimodal": "_rkllm",
    "Perf": "results",
    "Piece": "_rkllm",
    "Session": "session",
    "Stream": "stream",
    "decode_together": "session",
    "step_together": "session",
    "TokenLogprobs": "results",
    "Tokenizer": "_rkllm",
    "convert": "convert",
    "convert_lora": "lora",
    "AbortedError": "errors",
    "BusyError": "errors",
    "ContextFullError": "errors",
    "InvalidArgumentError": "errors",
    "ModelFileError": "errors",
    "OutOfMemoryError": "errors",
    "RKLLMError": "errors",
    "UnsupportedByRuntimeError": "errors",
    "UnsupportedModelError": "errors",
}
_UNBUILT = (
    "the compiled module rkllm_ext._rkllm is missing: this is an unbuilt source tree. "
    "Run `pip install .` (or `pip install -e . --no-build-isolation`) in the project's folder"
)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Importing the submodule must not put it over the function of the same name.
        if name != "convert" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("rkllm_ext")
    elif name == "errors":
        value = importlib.import_module("rkllm_ext.errors")
    elif name in _MODULES:
        try:
            value = getattr(importlib.import_module(f"rkllm_ext.{_MODULES[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name != "rkllm_ext._rkllm":
                raise
            raise ImportError(_UNBUILT) from error
    else:
        raise AttributeError(f"module 'rkllm_ext' has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _built_folder() -> Path:
    # Of an editable install the compiled parts lie elsewhere than the Python files; the import system knows where.
    found = importlib.util.find_spec("rkllm_ext._rkllm")
    if found is None or found.origin is None:
        raise ImportError(_UNBUILT)
    return Path(found.origin).parent


def get_include() -> str:
    """Return the folder of rkllm.h and rkllm_ext.h, to compile C and C++ programs with.

    Examples
    --------
    >>> sorted(path.name for path in Path(get_include()).iterdir())
    ['rkllm.h', 'rkllm_ext.h']
    """
    return str(_built_folder() / "include")


def library_path() -> str:
    """Return the path of the package's own librkllmrt.so, to link C and C++ programs with.

    Examples
    --------
    >>> Path(library_path()).name
    'librkllmrt.so'
    """
    return str(_built_folder() / "librkllmrt.so")

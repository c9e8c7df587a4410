# SPDX-License-Identifier: Apache-2.0
"""A plain ctypes client of the interface, as a program without our binding would write it."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from layout import InferParam, Input, LoraAdapter, LoraParam, Param, PromptCacheParam, Result
from numpy.typing import NDArray

import rkllm_ext

CALLBACK = c.CFUNCTYPE(None, c.POINTER(Result), c.c_void_p, c.c_int)
NORMAL, WAITING, FINISH, ERROR, HIDDEN = range(5)
PROMPT, TOKEN, EMBED, MULTIMODAL = range(4)


@dataclass(frozen=True)
class Event:
    """One callback."""

    state: int
    text: str
    token_id: int


@dataclass(frozen=True)
class Run:
    """What one run returned and called back."""

    code: int
    events: list[Event]
    hidden: NDArray[np.float32] | None

    @property
    def tokens(self) -> list[Event]:
        return [event for event in self.events if event.state in (NORMAL, WAITING)]


def _library() -> c.CDLL:
    library = c.CDLL(rkllm_ext.library_path())
    library.rkllm_createDefaultParam.restype = Param
    handle = c.c_void_p
    library.rkllm_init.argtypes = [c.POINTER(handle), c.POINTER(Param), CALLBACK]
    for name in ("rkllm_run", "rkllm_run_async"):
        getattr(library, name).argtypes = [handle, c.POINTER(Input), c.POINTER(InferParam), c.c_void_p]
    library.rkllm_load_lora.argtypes = [handle, c.POINTER(LoraAdapter)]
    library.rkllm_load_prompt_cache.argtypes = [handle, c.c_char_p]
    for name in ("rkllm_destroy", "rkllm_abort", "rkllm_is_running", "rkllm_release_prompt_cache"):
        getattr(library, name).argtypes = [handle]
    library.rkllm_ext_set_option.argtypes = [handle, c.c_char_p, c.c_char_p]
    library.rkllm_ext_last_error.argtypes = [handle]
    library.rkllm_ext_last_error.restype = c.c_char_p
    return library


class Client:
    """A model: a context manager. Settings are fields of RKLLMParam."""

    def __init__(self, model: Path, **settings: object) -> None:
        self.library = _library()
        self._param = self.library.rkllm_createDefaultParam()
        self._param.model_path = str(model).encode()
        for name, value in settings.items():
            setattr(self._param, name, value)
        self._events: list[Event] = []
        self._hidden: NDArray[np.float32] | None = None
        self._callback = CALLBACK(self._called)  # as long as the handle
        self.handle = c.c_void_p()
        if self.library.rkllm_init(c.byref(self.handle), c.byref(self._param), self._callback) != 0:
            raise RuntimeError(self.error(None))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.library.rkllm_destroy(self.handle) == 0

    def error(self, handle: c.c_void_p | None) -> str:
        return str(self.library.rkllm_ext_last_error(handle).decode())

    def option(self, name: str, value: object) -> None:
        code = self.library.rkllm_ext_set_option(self.handle, name.encode(), str(value).encode())
        assert code == 0, self.error(self.handle)

    def load_lora(self, path: Path, name: str, scale: float) -> None:
        adapter = LoraAdapter(str(path).encode(), name.encode(), scale)
        assert self.library.rkllm_load_lora(self.handle, c.byref(adapter)) == 0, self.error(self.handle)

    def load_prompt_cache(self, path: Path) -> None:
        code = self.library.rkllm_load_prompt_cache(self.handle, str(path).encode())
        assert code == 0, self.error(self.handle)

    def prompt(self, text: str, **how: object) -> Run:
        return self._run(Input(input_type=PROMPT, prompt_input=text.encode()), **how)

    def tokens(self, ids: Sequence[int], **how: object) -> Run:
        given = Input(input_type=TOKEN)
        given.token_input.input_ids = (c.c_int32 * len(ids))(*ids)
        given.token_input.n_tokens = len(ids)
        return self._run(given, **how)

    def embeddings(self, rows: NDArray[np.float32], **how: object) -> Run:
        given = Input(input_type=EMBED)
        given.embed_input.embed = rows.ctypes.data_as(c.POINTER(c.c_float))
        given.embed_input.n_tokens = len(rows)
        return self._run(given, **how)

    def image(self, text: str, rows: NDArray[np.float32], **how: object) -> Run:
        given = Input(input_type=MULTIMODAL)
        given.multimodal_input.prompt = text.encode()
        given.multimodal_input.image_embed = rows.ctypes.data_as(c.POINTER(c.c_float))
        given.multimodal_input.n_image_tokens = len(rows)
        return self._run(given, **how)

    def _run(self, given: Input, *, mode: int = 0, lora: str | None = None, save: Path | None = None) -> Run:
        params = InferParam(mode=mode)
        if lora is not None:
            params.lora_params = c.pointer(LoraParam(lora.encode()))
        if save is not None:
            params.prompt_cache_params = c.pointer(PromptCacheParam(1, str(save).encode()))
        self._events, self._hidden = [], None
        code = self.library.rkllm_run(self.handle, c.byref(given), c.byref(params), None)
        return Run(code, self._events, self._hidden)

    def _called(self, result: c._Pointer[Result], userdata: int | None, state: int) -> None:
        assert userdata is None
        if state == HIDDEN:
            layer = result.contents.last_hidden_layer
            shape = (layer.num_tokens, layer.embd_size)
            self._hidden = np.ctypeslib.as_array(layer.hidden_states, shape).copy()
        self._events.append(Event(state, result.contents.text.decode("utf-8"), result.contents.token_id))

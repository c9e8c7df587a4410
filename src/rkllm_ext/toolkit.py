# SPDX-License-Identifier: Apache-2.0
"""The vendor toolkit's class: load a model, quantize it, export it, try it on the PC.

Calls, arguments and return codes are the vendor's. Whoever prefers exceptions uses `rkllm_ext.convert` and `LLM`.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidArgumentError, RKLLMError
from .lora import adapter_path
from .quant.dataset import BUILT_IN_USED
from .quant.recipe import Recipe
from .sources import locate

if TYPE_CHECKING:
    from .llm import LLM

    Messages = str | Sequence[Mapping[str, Any]]

_log = logging.getLogger("rkllm_ext.toolkit")
_CHAT_ARGUMENTS = ("max_length", "top_k", "top_p", "temperature", "do_sample", "repetition_penalty")
_DEVICES = ("cpu", "cuda")
_ADAPTER = "adapter"  # the name under which the loaded adapter answers
Call = TypeVar("Call", bound=Callable[..., Any])


def _guarded(failure: Any) -> Callable[[Call], Call]:
    """Let a call return `failure` where it would raise, after logging the sentence and keeping it in `last_error`."""

    def decorate(call: Call) -> Call:
        @functools.wraps(call)
        def guarded(self: RKLLM, *args: Any, **kwargs: Any) -> Any:
            self.last_error = ""
            try:
                return call(self, *args, **kwargs)
            except Exception as error:  # whatever a bad model or argument can lead to
                self.last_error = " ".join(str(error).split()) or type(error).__name__
                _log.error("%s: %s", call.__name__, self.last_error)
                return failure

        return cast(Call, guarded)

    return decorate


class RKLLM:
    """A model on its way from a checkpoint to a ``.rkllm`` file.

    No call raises: a failure is -1 (or None), logged in one line and kept in `last_error`. Log lines go to the logger
    ``rkllm_ext.toolkit``, and to stderr where the program has set up no logging. Used by one thread.

    Attributes
    ----------
    last_error : str
        Why the last call failed; "" when it did not.

    Examples
    --------
    >>> model = RKLLM()
    >>> model.load_huggingface(model=source)
    0
    >>> model.build(do_quantization=True, quantized_dtype="w8a8", target_platform="rk3588")
    0
    >>> model.export_rkllm(out)
    0
    """

    def __init__(self) -> None:
        self.last_error = ""
        self._source: Path | None = None
        self._adapter: Path | None = None
        self._read: list[Path] = []  # the files of the source
        self._built: Path | None = None  # the model that would be exported, in a folder of its own
        self._llm: LLM | None = None  # that model, loaded
        self._cleanup: Callable[[], object] = lambda: None
        if not _log.hasHandlers():
            _log.addHandler(_Stderr())
            _log.setLevel(logging.INFO)

    # ---- loading ----------------------------------------------------------------------------------------------------

    @_guarded(-1)
    def load_huggingface(self, model: Any, model_lora: Any = None, device: str = "cpu") -> int:
        """Open a Hugging Face directory.

        Parameters
        ----------
        model : str or os.PathLike
            The directory.
        model_lora : str or os.PathLike, optional
            A directory with a PEFT LoRA adapter of this model, to be exported beside it.
        device : str
            "cpu" or "cuda". Nothing depends on it: the engine computes on the CPU, gdq on CUDA where there is one.
        """
        if str(device).split(":")[0] not in _DEVICES:
            raise InvalidArgumentError(f"the device {device!r} does not exist; known: {', '.join(_DEVICES)}")
        return self._load(model, model_lora, "huggingface")

    @_guarded(-1)
    def load_gguf(self, model: Any) -> int:
        """Open a GGUF file of any tensor types that the `gguf` package reads, mixed ones included.

        A GGUF LoRA adapter is taken as one for the model that was loaded before, to be exported beside it.
        """
        path = locate(_path(model, "model"))
        if not _is_adapter(path):
            return self._load(path, None, "gguf")
        base = self._loaded()
        self._forget()
        self._adapter = path
        _log.info("%s: LoRA adapter for %s", path, base)
        return 0

    def _load(self, model: Any, adapter: Any, kind: str) -> int:
        from .source_model import open_model

        self._forget()
        self._source = self._adapter = None
        source = locate(_path(model, "model"))
        with open_model(source) as opened:
            facts = opened.facts()
            self._read = list(opened.checkpoint.files.values())
        if facts.kind != kind:
            other = {"gguf": "load_gguf", "huggingface": "load_huggingface"}[facts.kind]
            raise InvalidArgumentError(f"{source}: is a {facts.kind} model; use {other}()")
        if adapter is not None:
            from .readers import open_adapter

            self._adapter = Path(_path(adapter, "model_lora"))
            with open_adapter(self._adapter):
                _log.info("%s: LoRA adapter", self._adapter)
        self._source = source
        _log.info("%s: %s", source, facts)
        return 0

    # ---- building ---------------------------------------------------------------------------------------------------

    @_guarded(-1)
    def build(
        self,
        do_quantization: bool = True,
        optimization_level: int = 1,
        quantized_dtype: str = "w8a8",
        quantized_algorithm: str = "normal",
        num_npu_core: int | None = None,
        extra_qparams: Any = None,
        dataset: Any = None,
        hybrid_rate: float = 0,
        target_platform: str = "rk3588",
    ) -> int:
        """Quantize the loaded model.

        Parameters
        ----------
        do_quantization : bool
            False: weights in fp16; the arguments about quantization are then without effect.
        optimization_level : int
            0: round to the nearest; 1: with what calibration finds.
        quantized_dtype : str
            w8a8, w8a8_g128, w8a8_g256, w8a8_g512, w4a16, w4a16_g32, w4a16_g64, w4a16_g128.
        quantized_algorithm : str
            "normal", or "gdq" for 4-bit types.
        num_npu_core : int, optional
            1 ... 3 on rk3588, 1 ... 2 on rk3576; None: all.
        extra_qparams : str or os.PathLike, optional
            The ``gdq.qparams`` of an earlier build with gdq.
        dataset : str or os.PathLike, optional
            A JSON list of {"input": ..., "target": ...} to calibrate with; None: a short built-in text.
        hybrid_rate : float
            0 ... 1: the share of layers that get the neighbouring type, grouped or not.
        target_platform : str
            "rk3588", "rk3576" or "cpu".
        """
        source = self._loaded()
        self._forget()
        settings: dict[str, Any] = {"platform": str(target_platform).lower(), "npu_cores": num_npu_core}
        if do_quantization:
            recipe = Recipe(
                quantized_dtype,
                quantized_algorithm,
                optimization_level,
                dataset or None,
                hybrid_rate,
                extra_qparams or None,
            )
            if recipe.calibrates and recipe.dataset is None:
                _log.warning(BUILT_IN_USED)
            settings |= vars(recipe)
        self._convert(source, settings)
        return 0

    def _convert(self, source: Path, settings: Mapping[str, Any]) -> Path:
        from .convert import convert
        from .lora import convert_lora

        folder = Path(tempfile.mkdtemp(prefix="rkllm_ext-"))
        self._cleanup = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        built = folder / "model.rkllm"
        if self._adapter is not None:  # first: one that does not fit is found out before the long part
            convert_lora(self._adapter, source, adapter_path(built), dtype="fp16")
        report = convert(source, built, **{"quantized_dtype": "fp16", **settings}, progress=True)
        _log.info(
            "built %s for %s%s: %.1f M parameters, %.1f MB, %.1f s",
            report.quantized_dtype,
            report.platform,
            f" with {report.npu_cores} NPU cores" if report.npu_cores else "",
            report.n_parameters / 1e6,
            report.file_bytes / 1e6,
            report.seconds,
        )
        self._built = built
        return built

    @_guarded(-1)
    def export_rkllm(self, export_path: Any) -> int:
        """Write the built model to a file, replacing one that is there as a whole or not at all.

        An adapter goes beside it, ``model_lora.rkllm`` beside ``model.rkllm``, and so does the ``gdq.qparams`` of gdq.
        """
        from .writer import check_target, put_file

        target = check_target(_path(export_path, "export_path"), self._read)
        self._loaded()
        if self._built is None:
            raise InvalidArgumentError("nothing is built; call build() first")
        files = {self._built: target}
        if self._adapter is not None:
            files[adapter_path(self._built)] = adapter_path(target)
        qparams = self._built.with_name("gdq.qparams")
        if qparams.exists():
            files[qparams] = target.with_name(qparams.name)
        for file, path in files.items():
            put_file(file, path)
            _log.info("%s: %.1f MB", path, path.stat().st_size / 1e6)
        return 0

    # ---- trying -----------------------------------------------------------------------------------------------------

    @_guarded(None)
    def get_logits(self, inputs: Any) -> Any:
        """Return the logits of a text, of the weights that would be exported (fp16 ones before `build`).

        Where an adapter was loaded they are those of the model with it.

        Parameters
        ----------
        inputs : mapping
            "input_ids": token ids, [1, n] or [n]: a torch tensor, a numpy array or a list. "attention_mask": ones.

        Returns
        -------
        float32 [1, n, vocab_size] of the kind of the ids: a torch tensor on their device, a numpy array, or lists.
        None: a failure.
        """
        given = inputs["input_ids"] if isinstance(inputs, Mapping) and "input_ids" in inputs else None
        if given is None:
            raise InvalidArgumentError('inputs must be a mapping with "input_ids", token ids of shape [1, n]')
        ids = _token_ids(given, "input_ids")
        if inputs.get("attention_mask") is not None:
            mask = _token_ids(inputs["attention_mask"], "attention_mask")
            if mask.shape != ids.shape or not mask.all():
                raise InvalidArgumentError(
                    f"attention_mask must be {len(ids)} ones; padding is not supported, give the tokens alone"
                )
        return _as_given(self._model(len(ids)).logits(ids, lora=self._lora())[None], given)

    @_guarded(None)
    def chat_model(self, messages: Messages, args: Mapping[str, Any] | None = None) -> str | None:
        """Return the model's answer, that of the model with its adapter where one was loaded.

        Parameters
        ----------
        messages : str, or list of {"role": ..., "content": ...}
            Text is taken as it is, with special tokens in it; a list is put into the model's chat template.
        args : mapping, optional
            "max_length" (tokens of prompt and answer together), "top_k", "top_p", "temperature", "do_sample" (False:
            always the likeliest token), "repetition_penalty".

        Returns
        -------
        The answer; None: a failure.
        """
        settings = dict(args or {})
        unknown = [name for name in settings if name not in _CHAT_ARGUMENTS]
        if unknown:
            raise InvalidArgumentError(f"unknown arguments {', '.join(unknown)}; known: {', '.join(_CHAT_ARGUMENTS)}")
        overrides: dict[str, Any] = {
            name: settings[name] for name in ("top_k", "top_p", "temperature") if name in settings
        }
        overrides["lora"] = self._lora()
        if "repetition_penalty" in settings:
            overrides["repeat_penalty"] = settings["repetition_penalty"]
        if not settings.get("do_sample", True):
            overrides["top_k"] = 1
        llm = self._model(1)
        if "max_length" in settings:
            if not isinstance(settings["max_length"], int):
                raise InvalidArgumentError(f"max_length is {settings['max_length']!r}; a number of tokens is needed")
            n_prompt = llm.count_tokens(messages)
            overrides["max_new_tokens"] = settings["max_length"] - n_prompt
            if overrides["max_new_tokens"] < 1:
                raise InvalidArgumentError(
                    f"max_length is {settings['max_length']}, but the prompt alone has {n_prompt} tokens"
                )
        answer = llm.generate(messages, **overrides) if isinstance(messages, str) else llm.chat(messages, **overrides)
        return answer.text

    def _model(self, n_tokens: int) -> LLM:
        """Return the model that would be exported, loaded, with room for so many tokens."""
        from .llm import LLM

        built = self._built or self._convert(self._loaded(), {})
        longer = self._llm is not None and self._llm.info.max_context_len < n_tokens <= self._llm.info.max_context
        if self._llm is not None and not longer:
            return self._llm
        if self._llm is not None:
            self._llm.close()
        self._llm = LLM(built, max_context_len=n_tokens if longer else None)
        if self._adapter is not None:
            self._llm.load_lora(adapter_path(built), _ADAPTER)
        return self._llm

    def _lora(self) -> str | None:
        return None if self._adapter is None else _ADAPTER

    def _loaded(self) -> Path:
        if self._source is None:
            raise InvalidArgumentError("no model is loaded; call load_huggingface() or load_gguf() first")
        return self._source

    def _forget(self) -> None:
        """Let go of what was built."""
        if self._llm is not None:
            self._llm.close()
        self._llm = self._built = None
        self._cleanup()


def _is_adapter(path: Path) -> bool:
    from ._rkllm import GGUFFile

    try:
        with GGUFFile(path) as file:
            return file.values.get("general.type") == "adapter"
    except RKLLMError:  # whoever loads it as a model will say what is wrong
        return False


def _path(given: Any, what: str) -> str:
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise InvalidArgumentError(f"{what} is {given!r}; a path is needed")
    return os.fsdecode(given)


def _token_ids(given: Any, what: str) -> NDArray[np.int32]:
    """Return ids of shape [1, n] or [n] as int32 [n]."""
    try:
        values = np.asarray(given.detach().cpu() if _is_tensor(given) else given)
    except ValueError:  # rows of different lengths
        raise InvalidArgumentError(f"{what} is no array; integers of shape [1, n] are needed") from None
    shape = list(values.shape)
    if shape[:-1] not in ([], [1]) or not values.size or values.dtype.kind not in "iub":
        raise InvalidArgumentError(
            f"{what} of shape {shape} and type {values.dtype}; integers of shape [1, n] are needed"
        )
    if values.min() < 0 or values.max() > 2**31 - 1:
        raise InvalidArgumentError(f"{what} holds {values.min()} ... {values.max()}, which are no token ids")
    return values.reshape(-1).astype(np.int32)


def _as_given(logits: NDArray[np.float32], given: Any) -> Any:
    if _is_tensor(given):
        import torch

        return torch.from_numpy(logits).to(given.device)
    return logits if isinstance(given, np.ndarray) else logits.tolist()


def _is_tensor(value: Any) -> bool:
    # torch is asked for nothing where the caller has none.
    return type(value).__module__.split(".")[0] == "torch"


class _Stderr(logging.Handler):
    """Lines as the library under it prints them, on what is stderr at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        import sys

        print(f"{record.levelname[0]} rkllm: {record.getMessage()}", file=sys.stderr)

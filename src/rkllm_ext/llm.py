# SPDX-License-Identifier: Apache-2.0
"""A language model: load a `.rkllm` file, generate, stream, chat."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union, cast

from ._rkllm import Handle, Multimodal, Piece, is_extended, runs_take_settings
from .conversation import Conversations, ToldStream
from .errors import InvalidArgumentError, UnsupportedModelError
from .loaded import LoadedModel
from .options import (
    Form,
    Value,
    checked,
    checked_overrides,
    checked_sampling,
    checked_thinking,
    finite,
    pop_form,
    sampling_of,
)
from .results import Generation, Info, Perf, TokenLogprobs
from .session import Session
from .stream import Stream

if TYPE_CHECKING:
    from ._rkllm import Array
    from .astream import AsyncStream
    from .constrain import Constraint, Grammars

    Input = Union[str, Array, Multimodal]
    Images = Union[Array, Sequence[Array]]

__all__ = ["LLM", "Generation", "Info", "Perf", "Piece", "Stream"]


class LLM(LoadedModel):
    """A loaded model. A context manager.

    Thread-safety: every method may be called from any thread. One run at a time: a second one is refused with
    BusyError, it does not wait. `abort` and `close` may be called while another thread is in a run, and end it. One
    thread consumes a stream. A model does not survive a fork.

    Parameters
    ----------
    path : str or os.PathLike
        A `.rkllm` file.
    max_context_len : int, optional
        Tokens of prompt and answer together. None: 4096, or what the model was made for if that is less.
    max_new_tokens : int
        Tokens of one answer; -1: until an end token or a full context.
    top_k : int
        Keep the k most probable tokens; 1: always the most probable one (greedy); 0 or less: all.
    top_p : float
        Keep the smallest set of tokens with this probability mass.
    temperature : float
        0: greedy.
    repeat_penalty, frequency_penalty, presence_penalty : float
        1, 0 and 0 turn them off.
    mirostat, mirostat_tau, mirostat_eta
        0: off, 1 or 2: version, which takes the place of top_k, top_p and min_p; target surprise, bits; learning rate.
    min_p : float
        Keep tokens at least so many times as probable as the most probable one; 0: all.
    logit_bias : dict of int to float, optional
        Added to the logits of these tokens; -inf forbids one.
    stop : str or sequence of str
        Texts that end the answer, which ends before them.
    logprobs : int, optional
        0 ... 20: how many alternatives are kept beside each token's log-probability. None: no log-probabilities.
    skip_special_token : bool
        Leave special tokens out of the text.
    seed : int, optional
        0 ... 2^64 - 1; the same seed gives the same answer. None: a new one for each run.
    n_threads : int, optional
        None: the environment's RKLLM_EXT_THREADS, else the physical cores that the process may use; of a big.LITTLE
        processor the big ones.
    n_keep : int
        What a full context does. -1: the run ends. n >= 0: the first n tokens stay, the older half of the others is
        dropped, and the run goes on in the state of a prompt of the tokens that are left.
    draft : int
        Tokens to guess ahead from earlier text (prompt lookup), 0 ... 16. Changes the speed, never the answer.
    reuse_prefix : bool
        A run keeps what its input has in common with the run before, from the first token on, and computes only the
        rest. Changes the speed, never the answer.
    kv_type : {"f16", "f32", "int8"}, optional
        How keys and values are kept. None: f16; f32 for `fp32` models.
    activations : {"auto", "int8"}, optional
        What matrices are multiplied with. None or "auto": what the model's formats name. "int8": 8-bit activations for
        4-bit matrices, too, which is faster and less precise; refused for models without any.
    img_start, img_end, img_content : str
        What the model expects before and behind the embeddings of an image, and in their place; see `Multimodal`.
    chat_template : str, optional
        A jinja2 text that takes the place of the model's own in `chat`. The vendor's library from 1.2 on puts the
        model's own around every prompt, also of `generate`, unless one is given here; "": prompts stay as they are.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or no `.rkllm` file.
    InvalidArgumentError
        A setting is not possible.
    UnsupportedByRuntimeError
        The library underneath has an interface that is not driven, or lacks what a setting needs.
    OutOfMemoryError

    Examples
    --------
    >>> with LLM(model_path, max_new_tokens=4, top_k=1) as llm:
    ...     answer = llm.generate("Once upon a time")
    >>> len(answer.token_ids), answer.finish_reason
    (4, 'length')
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_context_len: int | None = None,
        max_new_tokens: int = 256,
        top_k: int = 40,
        top_p: float = 0.9,
        temperature: float = 0.8,
        repeat_penalty: float = 1.1,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        mirostat: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        min_p: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        skip_special_token: bool = True,
        seed: int | None = None,
        n_threads: int | None = None,
        n_keep: int = -1,
        draft: int = 0,
        reuse_prefix: bool = True,
        kv_type: str | None = None,
        activations: str | None = None,
        img_start: str = "",
        img_end: str = "",
        img_content: str = "",
        chat_template: str | None = None,
    ) -> None:
        self._grammars: Grammars | None = None
        settings = {
            "max_new_tokens": max_new_tokens,
            "top_k": top_k,
            "top_p": top_p,
            "temperature": temperature,
            "repeat_penalty": repeat_penalty,
            "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty,
            "mirostat": mirostat,
            "mirostat_tau": mirostat_tau,
            "mirostat_eta": mirostat_eta,
            "skip_special_token": skip_special_token,
        }
        fixed = {
            # 0: the library's own rule for None; another library has no such rule
            "max_context_len": (0 if is_extended() else 4096) if max_context_len is None else max_context_len,
            "img_start": img_start,
            "img_end": img_end,
            "img_content": img_content,
            "n_keep": n_keep,
            **({} if n_threads is None else {"n_threads": n_threads}),
        }
        extended = {
            "min_p": min_p,
            "logit_bias": {} if logit_bias is None else logit_bias,
            "stop": stop,
            "logprobs": logprobs,
            "seed": seed,
            "ignore_eos": False,
            "lora": None,
            "n_keep": n_keep,
            "draft": draft,
            "reuse_prefix": reuse_prefix and is_extended(),
            "keep_history": False,
        }
        # What a run may override; every run sets these again, so that an override lasts for one run.
        self._defaults: dict[str, Value] = checked({**settings, **extended})
        chosen = {"kv_type": kv_type, "activations": activations}
        once = checked({name: value for name, value in chosen.items() if value is not None})
        self._file = os.path.abspath(os.fsdecode(path))  # read again for the chat template's tokens
        super().__init__(Handle(path, raw_prompts=chat_template is not None, **checked({**settings, **fixed})))
        self._conversations = Conversations(self._handle, self._file, chat_template)
        try:
            self._handle.set_options({**once, **self._defaults})
        except BaseException:
            self._handle.close()
            raise

    # ---- answers ----------------------------------------------------------------------------------------------------

    def generate(self, x: Input, **overrides: Any) -> Generation:
        """Run an input to its end and return the answer.

        Parameters
        ----------
        x : str, int32 [n], float32 [n, dim] or Multimodal
            Text, in which special tokens are parsed as such; or token ids; or input embeddings; or a prompt with
            images. Arrays are any C-contiguous buffer (numpy, array.array, memoryview); they are used where they lie,
            without a copy, and must not change before the run has ended.
        **overrides
            max_new_tokens, top_k, top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty, mirostat,
            mirostat_tau, mirostat_eta, min_p, logit_bias, stop, logprobs, seed, skip_special_token, n_keep, draft,
            reuse_prefix as in `LLM`, and ignore_eos (end tokens do not end the run): for this run only.
            lora: the name of a loaded adapter to answer with.
            keep_history: True: the input goes on behind the run before, its answer included, where that was kept as
            well; a run without it forgets what was kept. Text and token ids only.
            save_prompt_cache: a path; the state of the input is saved there, see `load_prompt_cache`. When that fails,
            so does the run, before its first token.

        Raises
        ------
        InvalidArgumentError
            x has the wrong type, shape or values, a setting is not possible, or the model is closed.
        ContextFullError
            The input is longer than max_context_len.
        BusyError
            Another run is active.
        """
        return _whole(self.stream(x, **overrides))

    def stream(self, x: Input, **overrides: Any) -> Stream:
        """Start a run and return an iterator of its pieces; `piece.text`, `piece.token_id`. As `generate` otherwise.

        The run ends with the stream: read to its end, left by `break` or an exception, or closed. Use `with` where the
        stream has a name, so that it also ends at once when an exception leaves the block.

        Examples
        --------
        >>> with LLM(model_path, max_new_tokens=3, seed=1) as llm:
        ...     text = "".join(piece.text for piece in llm.stream("Once upon a time"))
        """
        return self._start(x, {}, overrides)

    def astream(self, x: Input, **overrides: Any) -> AsyncStream:
        """Start a run and return an asynchronous iterator of its pieces, for `async for`. As `stream` otherwise.

        The event loop is told by a file descriptor; there is no thread between it and the library's.
        """
        from .astream import AsyncStream

        return AsyncStream(self.stream(x, **overrides))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        image_embed: Images | None = None,
        **overrides: Any,
    ) -> Generation:
        """Answer a conversation, written as the model's own chat template has it.

        Parameters
        ----------
        messages : list of {"role": ..., "content": ...}
        tools : list of {"type": "function", "function": {...}}, optional
            Functions that the model may call, as the chat template lists them. What a call looks like in the answer is
            the model's affair; the result of one is a message of the role "tool".
        thinking : bool, optional
            Whether the model thinks before it answers, where its template has a switch for that. None: its own choice.
        image_embed : optional
            Embeddings of the images whose places `<image>` marks in the messages, as for `Multimodal`.
        **overrides
            As in `generate`. keep_history: True: the messages go on behind those of the calls before and their answers,
            as far as these were read to their end.

        Raises
        ------
        UnsupportedModelError
            The model has no chat template, or one without a place for tools or thinking.
        UnsupportedByRuntimeError
            The vendor's library has no such conversation.
        InvalidArgumentError
            The template refuses the messages.

        Examples
        --------
        >>> template = "{% for m in messages %}{{ m.role }}: {{ m.content }}; {% endfor %}"
        >>> with LLM(model_path, max_new_tokens=4, chat_template=template) as llm:
        ...     first = llm.chat([{"role": "user", "content": "My name is Ada."}], keep_history=True)
        ...     second = llm.chat([{"role": "user", "content": "What is my name?"}], keep_history=True)
        """
        return _whole(
            self.chat_stream(messages, tools=tools, thinking=thinking, image_embed=image_embed, **overrides)
        )

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        image_embed: Images | None = None,
        **overrides: Any,
    ) -> Stream:
        """Answer a conversation piece by piece. As `chat` and `stream`."""
        keeps = bool(checked({"keep_history": overrides.pop("keep_history", False)})["keep_history"])
        prompt, given = self._conversations.turn(messages, tools, checked_thinking(thinking), keeps)
        x: Input = prompt
        if image_embed is not None:
            if not isinstance(prompt, str):
                raise UnsupportedModelError(f"{self._handle.path}: images cannot be in conversations with this model")
            x = Multimodal(prompt, image_embed)
        if not keeps or self._conversations.are_the_librarys:
            return self._start(x, given, overrides)
        return self._start(x, given, overrides, lambda answer: self._conversations.keep(messages, answer))

    def _start(
        self,
        x: Input,
        given: Mapping[str, Value],
        overrides: dict[str, Any],
        tell: Callable[[str], None] | None = None,
    ) -> Stream:
        # Start a run; `tell` is called with its text when it has been read to its end.
        form = pop_form(overrides)
        options = {**self._defaults, "add_bos": "auto", **given, **checked_overrides(overrides)}
        save_path = str(options.pop("save_prompt_cache", ""))
        constraint = None if form is None else self._constraint(form, x, options)
        if tell is None:
            stream = self._handle.start(x, options, Stream, save_path, constraint)
            self._conversations.forget()
            return stream
        told = self._handle.start(x, options, ToldStream, save_path, constraint)
        told.tell(tell)
        return told

    def _constraint(self, form: Form, x: Input, options: Mapping[str, Value]) -> Constraint:
        # What gives an answer its form, and an end in time.
        from .constrain import grammars_of, positions_of

        for name, off in (("stop", ""), ("ignore_eos", False)):
            if options[name] != off:
                raise InvalidArgumentError(f"{name} and {form[0]} are given; the form alone says where the answer ends")
        if self._grammars is None:
            self._grammars = grammars_of(self._handle, self._file)
        room = self.info.max_context_len - positions_of(self._handle, x) if cast(int, options["n_keep"]) < 0 else -1
        limits = [n for n in (cast(int, options["max_new_tokens"]), room) if n >= 0]
        return self._grammars.constraint(form, min(limits, default=None))

    def count_tokens(self, x: str | Sequence[Mapping[str, Any]]) -> int:
        """Return how many tokens a text, or a conversation in the model's chat template, is as a prompt."""
        prompt, add_bos = (x, "auto") if isinstance(x, str) else self._conversations.prompt(x)
        if isinstance(prompt, str):
            return len(self.tokenize(prompt, add_bos=add_bos == "auto"))
        return len(prompt)

    # ---- sessions ---------------------------------------------------------------------------------------------------

    def session(self, **settings: Any) -> Session:
        """Open a sequence whose tokens the caller chooses, with its own keys and values.

        Parameters
        ----------
        **settings
            top_k, top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty, mirostat, mirostat_tau,
            mirostat_eta, min_p, logit_bias, seed of `Session.sample`; those of the LLM where not given. lora: the name
            of a loaded adapter to compute with.

        Raises
        ------
        InvalidArgumentError
            A setting is not possible, or the model is closed.
        OutOfMemoryError
        """
        lora = checked({"lora": settings.pop("lora", None)})
        return self._open_session(None, settings, lora)

    def restore(self, path: str | os.PathLike[str], **settings: Any) -> Session:
        """Open a session in the state in which `Session.save` saved one: its sequence, logits and adapter.

        Parameters
        ----------
        path : str or os.PathLike
            A file of this model, kv_type and activations; its adapter must be loaded.
        **settings
            As for `session`, but for lora; they are not in the file.

        Raises
        ------
        ModelFileError
            The file is missing or damaged.
        InvalidArgumentError
            It belongs to another model, format, adapter, kv_type or activations, a setting is not possible, or the
            model is closed.

        Examples
        --------
        >>> with LLM(model_path) as llm, llm.session() as session:
        ...     n = session.prefill("Once upon a time")
        ...     session.save(session_path)
        ...     with llm.restore(session_path) as restored:
        ...         restored.tokens.tolist() == session.tokens.tolist()
        True
        """
        return self._open_session(path, settings, {})

    def _open_session(
        self, path: str | os.PathLike[str] | None, settings: Mapping[str, Any], once: Mapping[str, Value]
    ) -> Session:
        options = {**sampling_of(self._defaults), **checked_sampling(settings)}
        return self._handle.open_session(Session, options, {**once, "seed": options.pop("seed")}, path)

    # ---- adapters and prompt states ---------------------------------------------------------------------------------

    def load_lora(self, path: str | os.PathLike[str], name: str, scale: float = 1.0) -> None:
        """Load a LoRA adapter beside the model; runs with ``lora=name`` answer with it, others do not change.

        Several can be loaded. The model's weights stay as they are and are shared by all.

        Parameters
        ----------
        path : str or os.PathLike
            A file that `convert_lora` wrote for the checkpoint of this model.
        name : str
            What runs choose it by.
        scale : float
            A further factor of what the adapter adds; its own, alpha / rank, is in the file.

        Raises
        ------
        ModelFileError
            The file is missing, damaged, no adapter, or one of another model.
        InvalidArgumentError
            The name is empty or taken, or the scale is not finite.
        BusyError
            A run is active.

        Examples
        --------
        >>> with LLM(model_path) as llm:
        ...     llm.load_lora(adapter_path, "polite", scale=0.5)
        ...     answer = llm.generate("Hello", lora="polite", max_new_tokens=4)
        ...     llm.release_lora("polite")
        """
        self._handle.load_lora(path, name, finite("scale", scale))

    def release_lora(self, name: str) -> None:
        """Forget a loaded adapter.

        Raises
        ------
        InvalidArgumentError
            No adapter of that name is loaded; the sentence names those that are.
        BusyError
            A run is active.
        """
        self._handle.release_lora(name)

    def save_prompt_cache(self, x: Input, path: str | os.PathLike[str], *, lora: str | None = None) -> None:
        """Compute an input, as `generate` takes it, and save its state to a file, from which later runs go on.

        A file that is there is replaced, and stays as it was when saving fails.

        Raises
        ------
        InvalidArgumentError
            No file can be put there, or as `generate`.
        ModelFileError
            The file cannot be written, for example because the disk is full.
        """
        if path is None or not os.fspath(path):
            raise InvalidArgumentError(f"path is {path!r}; name a file to write")
        limit = {"max_new_tokens": 1} if runs_take_settings() else {}
        self.generate(x, save_prompt_cache=path, lora=lora, **limit)

    def load_prompt_cache(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Load a saved state: runs whose input begins as the saved one did compute only what is different.

        Several can be loaded under names; a run takes the one it has most in common with. Answers do not change.

        Parameters
        ----------
        path : str or os.PathLike
            A file of `save_prompt_cache`, which serves the same model file, format, adapter and type of KV cache only.
        name : str, optional
            To keep several. A name that is taken gets the new state; None is a name, too.

        Raises
        ------
        ModelFileError
            The file is missing, damaged, or was saved with something else; the sentence says with what.
        BusyError
            A run is active.

        Examples
        --------
        >>> with LLM(model_path, max_new_tokens=4, top_k=1) as llm:
        ...     llm.save_prompt_cache("Once upon a time", cache_path)
        >>> with LLM(model_path, max_new_tokens=4, top_k=1) as llm:
        ...     llm.load_prompt_cache(cache_path)
        ...     answer = llm.generate("Once upon a time there were three robots")
        >>> answer.perf.reused_tokens > 0
        True
        """
        self._handle.load_prompt_cache(path, "" if name is None else name)

    def release_prompt_cache(self, name: str | None = None) -> None:
        """Forget the prompt cache of a name, or all of them.

        Raises
        ------
        InvalidArgumentError
            None of that name is loaded; the sentence names those that are.
        BusyError
            A run is active.
        """
        self._handle.release_prompt_cache(name)

    # ---- what runs have left -----------------------------------------------------------------------------------------

    def clear_kv_cache(self) -> None:
        """Forget what runs with keep_history have kept, and the keys and values of runs.

        Raises
        ------
        UnsupportedByRuntimeError
            On the vendor's library before 1.2.1.
        BusyError
            A run is active.
        """
        self._handle.clear_kv_cache()
        self._conversations.forget()

    @property
    def kv_cache_size(self) -> int:
        """How many tokens, of prompts and answers, the KV cache holds for the next run. Raises as `clear_kv_cache`."""
        return self._handle.kv_cache_size()


def _whole(stream: Stream) -> Generation:
    text, ids = stream.collect()
    reason = stream.finish_reason
    assert reason is not None  # collect() returns at the end of the run
    found = stream.logprobs
    rows = None if found is None else [TokenLogprobs(int(token), *row) for token, row in zip(ids, found)]
    return Generation(text, ids, reason, stream.perf, rows)

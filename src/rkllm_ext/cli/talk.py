# SPDX-License-Identifier: Apache-2.0
"""Answers on the terminal: one, or a conversation, and the figures at the end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..errors import ContextFullError, RKLLMError, UnsupportedByRuntimeError

if TYPE_CHECKING:
    from ..llm import LLM

_HELP = "Ctrl-C stops an answer; /new begins a new conversation; /exit, Ctrl-D or Ctrl-C twice leaves."


class Talk:
    """What one user says to one model.

    Parameters
    ----------
    llm
        The model.
    chat
        True: lines are turns of a conversation in the model's chat template. False: each line is a prompt of its own.
    lora
        The name of the loaded adapter to answer with.
    save_to
        Where the first prompt's state is saved; None: nowhere.
    """

    def __init__(self, llm: LLM, chat: bool, lora: str | None = None, save_to: str | None = None) -> None:
        self._llm = llm
        self._chat = chat
        self._settings: dict[str, Any] = {} if lora is None else {"lora": lora}
        self._once: dict[str, Any] = {} if save_to is None else {"save_prompt_cache": save_to}  # for the first answer
        self._history: list[dict[str, str]] = []
        self._figures = {"prefill_ms": 0.0, "generate_ms": 0.0, "prefill_tokens": 0, "generate_tokens": 0}
        self._peak_mb = 0.0

    def talk(self, prompt: str | None) -> None:
        """Answer a prompt, or without one line after line, and print the figures."""
        try:
            if prompt is None:
                self.forever(read_line)
            else:
                self.once(prompt)
        finally:
            self.report()

    def once(self, prompt: str) -> None:
        """Stream one answer to stdout."""
        self._history = [{"role": "user", "content": prompt}]
        texts: list[str] = []
        try:
            self._play(prompt, texts)
        except BaseException:
            if texts:
                _put("\n")
            raise
        _put("\n")

    def forever(self, read: Callable[[], str]) -> None:
        """Answer line after line until the user leaves. `read` returns a line, or raises EOFError at their end."""
        click.echo(_HELP, err=True)
        interrupted = False  # a second Ctrl-C without a line in between leaves
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted = True
                click.echo("\n(Ctrl-C again leaves)", err=True)
                continue
            if line in ("/exit", "/quit"):
                return
            if line == "/new":
                self._history.clear()
            elif line:
                try:
                    interrupted = not self._answer(line)
                except RKLLMError as error:
                    click.echo(f"rkllm-ext: {error}", err=True)

    def _answer(self, line: str) -> bool:
        """Stream the answer to a line; return whether it was left to end by itself."""
        texts: list[str] = []
        self._history.append({"role": "user", "content": line})
        while True:
            try:
                self._play(line, texts)
                ending = "\n"
                break
            except KeyboardInterrupt:
                ending = " (stopped)\n"
                break
            except ContextFullError:
                if not self._chat or len(self._history) < 3:
                    self._history.pop()
                    raise
                del self._history[:2]  # the oldest question and its answer
            except RKLLMError:
                self._history.pop()
                raise
        _put(ending)
        self._history.append({"role": "assistant", "content": "".join(texts)})
        return ending == "\n"

    def _play(self, line: str, texts: list[str]) -> None:
        """Put the pieces of an answer on stdout as they come, and into `texts`."""
        start = self._llm.chat_stream if self._chat else self._llm.stream
        asked: Any = self._history if self._chat else line
        once, self._once = self._once, {}
        with contextlib.closing(start(asked, **self._settings, **once)) as stream:
            try:
                for piece in stream:
                    texts.append(piece.text)
                    _put(piece.text)
            finally:
                stream.close()
                self._count()

    def _count(self) -> None:
        perf = self._llm.perf
        if perf is not None:
            for name in self._figures:
                self._figures[name] += getattr(perf, name)
            self._peak_mb = max(self._peak_mb, perf.peak_memory_mb)

    def report(self) -> None:
        """Print load time, speeds, peak memory and file size to stderr, once anything was computed."""
        figures = self._figures
        if not figures["prefill_tokens"]:
            return
        prefill = f"prefill {figures['prefill_tokens']} tokens, {_rate(figures, 'prefill')}"
        decode = f"decode {figures['generate_tokens']} tokens, {_rate(figures, 'generate')}"
        try:
            info = self._llm.info
        except UnsupportedByRuntimeError:  # the vendor's library
            click.echo(f"[{prefill} | {decode} | peak memory {self._peak_mb:.0f} MB]", err=True)
            return
        click.echo(
            f"[load {info.load_ms / 1000:.2f} s | {prefill} | {decode} | peak memory {self._peak_mb:.0f} MB | "
            f"file {info.file_bytes / 1e6:.1f} MB, {info.format} | {info.isa}, {info.n_threads} threads]",
            err=True,
        )


def read_line() -> str:
    """Ask for a line on the terminal."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() history and editing
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line
    return input("> ")


def _rate(figures: dict[str, float], stage: str) -> str:
    milliseconds, tokens = figures[f"{stage}_ms"], figures[f"{stage}_tokens"]
    return f"{1000 * tokens / milliseconds:.1f} tokens/s" if milliseconds else "- tokens/s"


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

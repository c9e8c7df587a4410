# SPDX-License-Identifier: Apache-2.0
"""The web page (extra `ui`): a Gradio application on top of the engine layer."""
# Gradio reads annotations at run time, as types: no `from __future__ import annotations` here.

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any, Optional, Union

import fastapi
import gradio as gr
import uvicorn
from gradio import events

from ..errors import InvalidArgumentError, RKLLMError
from .dialogue import Settings, answered, page_to_messages, pairs_to_messages, request_of
from .engine import Engine
from .model import Model

_THEME = gr.themes.Default(  # fonts of the system: nothing is fetched from elsewhere
    primary_hue="blue",
    secondary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
_CSS = """
#conversation { height: calc(100dvh - 11.5rem) !important; min-height: 18rem; }
#title h3, #status p { margin: 0; }
#status { min-height: 1.4rem; opacity: 0.75; font-variant-numeric: tabular-nums; }
@media (max-width: 640px) { .gradio-container { padding: 0.4rem !important; } }
"""
_STORED = "rkllm_ext conversation"  # where a browser keeps it
_DEFAULTS = Settings()


def create_page(
    model: Union[str, "os.PathLike[str]", Model, Engine],
    *,
    parallel: int = 4,
    max_queue: int = 64,
    system: str = "",
    auth: Optional[tuple[str, str]] = None,
    timeout: Optional[float] = 600.0,
    **settings: Any,
) -> fastapi.FastAPI:
    """Return an application with a page to talk to a model. Any ASGI server can run it, in one process.

    Programs use it through `gradio_client`: /get_user_input and /get_RKLLM_output are those of the vendor's page.

    Parameters
    ----------
    model : path, Model or Engine
    parallel, max_queue : int
        As in `Engine`, where model is none.
    system : str
        The system prompt that the page begins with.
    auth : (str, str), optional
        The name and password that the page asks for.
    timeout : float, optional
        Seconds that an answer may take, waiting included; None: any.
    **settings
        Of `LLM`: max_context_len, n_threads, kv_type.

    Returns
    -------
    fastapi.FastAPI
        `app.state.engine` is its `Engine`: close it in the end.
    """
    if not isinstance(model, (Model, Engine)):
        model = Model(model, **settings)
    engine = model if isinstance(model, Engine) else Engine(model, parallel, max_queue)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.engine = engine
    return gr.mount_gradio_app(
        app,
        _page(engine, system, timeout),
        path="/",
        auth=auth,
        theme=_THEME,
        css=_CSS,
        footer_links=[],
        run_history=False,
        show_error=False,  # what is not ours is told by the log, not by the page
        max_file_size="1kb",  # nothing takes files
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )


def run_page(app: fastapi.FastAPI, listening: socket.socket, drain: float = 30.0) -> bool:
    """Serve an application of `create_page` on a socket until SIGTERM or SIGINT.

    Answers have `drain` seconds to end then; a second signal ends at once. Return whether all have ended by themselves.
    """
    engine: Engine = app.state.engine
    # Open pages keep a connection for ever: it is answers that are waited for.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
    server = _Server(config, engine, drain)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises what has stopped it once more, at its end
        signal.signal(number, lambda *_: None)
    logging.getLogger("uvicorn.error").addFilter(lambda record: "graceful shutdown" not in record.getMessage())
    try:
        server.run(sockets=[listening])
        return engine.is_idle
    finally:
        engine.close()


class _Server(uvicorn.Server):
    """Ends when the engine has."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain = drain
        self._is_ending = False

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        """Take a signal."""
        if self._is_ending:
            self.should_exit = self.force_exit = True
            return
        self._is_ending = True
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        self._engine.drain(self._drain)
        self.should_exit = True


def _page(engine: Engine, system: str, timeout: Optional[float]) -> gr.Blocks:
    name = engine.model.name
    with gr.Blocks(title=name, fill_width=True, analytics_enabled=False) as page:
        stored = gr.BrowserState([], storage_key=_STORED, secret=_STORED)  # a secret of each start would forget it
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                gr.Markdown(f"### {name}", elem_id="title")
                chat = gr.Chatbot(
                    elem_id="conversation",
                    show_label=False,
                    buttons=["copy", "copy_all"],
                    placeholder="Ask something.",
                    feedback_options=None,
                    allow_tags=False,
                )
                status = gr.Markdown("", elem_id="status")
                text = gr.Textbox(
                    elem_id="question",
                    show_label=False,
                    placeholder="Your message",
                    max_lines=8,
                    autofocus=True,
                    submit_btn=True,
                    max_length=100_000,
                )
            with gr.Column(scale=1, min_width=260):
                controls = _controls(engine, system)
        _connect(page, engine, timeout, chat, status, text, stored, controls)
        _vendors_interface(engine, timeout)
    page.queue(default_concurrency_limit=None, max_size=None)  # the engine's queue decides who is next
    return page


def _controls(engine: Engine, system: str) -> list[Any]:
    # In the order of the fields of Settings.
    return [
        gr.Textbox(system, label="System prompt", lines=2, max_lines=6, max_length=20_000),
        gr.Slider(0, 2, _DEFAULTS.temperature, step=0.05, label="Temperature", info="0: always the likeliest token"),
        gr.Slider(0, 1, _DEFAULTS.top_p, step=0.01, label="Top p"),
        gr.Slider(0, 200, _DEFAULTS.top_k, step=1, label="Top k", info="0: all tokens"),
        gr.Slider(1, 2, _DEFAULTS.repeat_penalty, step=0.01, label="Repeat penalty"),
        gr.Slider(0, engine.model.info.max_context_len, 0, step=1, label="Longest answer", info="tokens; 0: any"),
        gr.Textbox("", elem_id="seed", label="Seed", placeholder="a new one each time", max_lines=1, max_length=20),
    ]


def _connect(
    page: gr.Blocks,
    engine: Engine,
    timeout: Optional[float],
    chat: gr.Chatbot,
    status: gr.Markdown,
    text: gr.Textbox,
    stored: gr.BrowserState,
    controls: list[Any],
) -> None:
    async def answer(history: list[Any], request: gr.Request, *values: Any) -> AsyncIterator[tuple[Any, str]]:
        try:
            wanted = request_of(engine, page_to_messages(history), _settings(values), _whose(request), timeout)
            async for progress in answered(engine, wanted):
                yield [*history, {"role": "assistant", "content": progress.text}], progress.status
        except RKLLMError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def asked(question: str, history: list[Any]) -> tuple[Any, Any]:
        if not question.strip():
            raise gr.Error("the message is empty", visible=False, print_exception=False)  # nothing happens
        return gr.Textbox("", **busy), [*history, {"role": "user", "content": question}]

    def ended(history: list[Any]) -> tuple[Any, Any]:
        return gr.Textbox(interactive=True, submit_btn=True, stop_btn=False), json.dumps(page_to_messages(history))

    def up_to_question(history: list[Any]) -> list[Any]:
        last = max((i for i, message in enumerate(history) if message["role"] == "user"), default=-1)
        return history[: last + 1]

    def restored(kept: Any) -> list[Any]:
        return json.loads(kept) if isinstance(kept, str) else []

    # One answer at a time: the field rests, and its button stops.
    busy: dict[str, Any] = {"interactive": False, "submit_btn": False, "stop_btn": True}
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    quick: dict[str, Any] = {**hidden, "queue": False}
    sent = text.submit(asked, [text, chat], [text, chat], **quick)
    again = chat.retry(lambda history: (gr.Textbox(**busy), up_to_question(history)), chat, [text, chat], **quick)
    answers = [each.success(answer, [chat, *controls], [chat, status], **hidden) for each in (sent, again)]
    for each in answers:
        each.success(ended, chat, [text, stored], **quick)
        each.failure(ended, chat, [text, stored], **quick)
    text.stop(ended, chat, [text, stored], cancels=answers, **quick)
    chat.undo(lambda history: up_to_question(history)[:-1], chat, chat, **quick).then(
        ended, chat, [text, stored], **quick
    )
    chat.clear(lambda: (json.dumps([]), ""), None, [stored, status], **quick)
    page.load(restored, stored, chat, **quick)


def _vendors_interface(engine: Engine, timeout: Optional[float]) -> None:
    def get_user_input(user_message: str, history: list[Any]) -> tuple[str, list[Any]]:
        """Return an empty text and the history with the message: [[user, assistant], ..., [user_message, null]]."""
        return "", [*history, [user_message, None]]

    async def get_RKLLM_output(history: list[Any], request: gr.Request) -> AsyncIterator[list[Any]]:
        """Answer the last message of a history. Yields the history as the answer grows."""
        try:
            messages = pairs_to_messages(history)
            wanted = request_of(engine, messages, _DEFAULTS, _whose(request), timeout)
            async for progress in answered(engine, wanted):
                yield [*history[:-1], [history[-1][0], progress.text]]
        except RKLLMError as error:
            raise gr.Error(str(error), print_exception=False) from None

    events.api(get_user_input, api_name="get_user_input", queue=False)
    events.api(get_RKLLM_output, api_name="get_RKLLM_output", concurrency_limit=None)


def _settings(values: tuple[Any, ...]) -> Settings:
    system, temperature, top_p, top_k, repeat_penalty, longest, seed = values
    seed = (seed or "").strip()
    if seed and not (seed.isdecimal() and int(seed) < 2**64):
        raise InvalidArgumentError(f"the seed is {seed!r}; give a number of 0 ... {2**64 - 1}, or nothing")
    return Settings(
        system or "",
        float(temperature),
        float(top_p),
        int(top_k),
        float(repeat_penalty),
        int(longest) or None,
        int(seed) if seed else None,
    )


def _whose(request: gr.Request) -> str:
    # Browsers and tabs take turns.
    host = request.client.host if request.client else ""
    return f"{host}/{request.session_hash or ''}"

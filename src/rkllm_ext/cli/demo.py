# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext demo``"""

from __future__ import annotations

import sys
from typing import Any

import click

from .options import format_options, sampling_options


@click.command("demo", short_help="Try a small chat model: fetch, convert, answer.")
@click.argument("prompt", required=False)
@click.option("--model", help="A GGUF file, a Hugging Face folder or hf:REPOSITORY, instead of SmolLM2-135M-Instruct.")
@format_options
@sampling_options(temperature=0.2)
def command(prompt: str | None, model: str | None, dtype: str, head_format: str | None, **settings: Any) -> None:
    """Fetch a small chat model, convert it, and answer PROMPT; without PROMPT, hold a conversation."""
    from ..llm import LLM
    from ..sources import cached_conversion, locate, packaged_model
    from .inspect import has_chat_template
    from .talk import Talk

    if prompt is not None and settings["seed"] is None:
        settings["seed"] = 1  # the same answer for everyone who tries it
    source = locate(model) if model is not None else packaged_model(quiet=not sys.stderr.isatty())
    path = cached_conversion(source, dtype, head_format, progress=True)
    with LLM(path, **settings) as llm:
        Talk(llm, chat=has_chat_template(path)).talk(prompt)

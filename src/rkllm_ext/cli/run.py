# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext run``"""

from __future__ import annotations

import os
from typing import Any

import click

from .options import FILE, activations_option, read_text, sampling_options


@click.command("run", short_help="Answer with a .rkllm file.")
@click.argument("model", type=FILE)
@click.argument("prompt", required=False)
@click.option(
    "--chat/--raw",
    default=None,
    help="Use the model's chat template, or give it the prompt as it is. Default: the template, if there is one.",
)
@click.option(
    "--chat-template",
    metavar="FILE",
    type=FILE,
    help="Use the chat template in FILE (jinja2) instead of the model's own.",
)
@click.option("--lora", metavar="[NAME=]PATH", help="Answer with this LoRA adapter.")
@click.option("--lora-scale", default=1.0, show_default=True, help="How much of the adapter; 0: nothing.")
@click.option(
    "--prompt-cache",
    metavar="FILE",
    type=click.Path(dir_okay=False, readable=False),
    help="Begin with the state that FILE holds; without such a file, save the state of the first prompt there.",
)
@activations_option
@sampling_options(temperature=0.8)
def command(
    model: str,
    prompt: str | None,
    chat: bool | None,
    chat_template: str | None,
    lora: str | None,
    lora_scale: float,
    prompt_cache: str | None,
    **settings: Any,
) -> None:
    """Answer PROMPT with the .rkllm file MODEL; without PROMPT, line after line."""
    from ..llm import LLM
    from .inspect import has_chat_template
    from .talk import Talk

    if chat_template is not None:
        settings["chat_template"] = read_text(chat_template)
        chat = True if chat is None else chat
    elif chat is False:
        settings["chat_template"] = ""  # else the vendor's library would still put the model's around a prompt
    with LLM(model, **settings) as llm:
        name = None
        if lora is not None:
            name, _, path = lora.rpartition("=")
            name = name or "lora"
            llm.load_lora(path, name, lora_scale)
        save_to = prompt_cache
        if prompt_cache is not None and os.path.exists(prompt_cache):
            llm.load_prompt_cache(prompt_cache)
            save_to = None
        chat = has_chat_template(model) if chat is None else chat
        Talk(llm, chat, lora=name, save_to=save_to).talk(prompt)

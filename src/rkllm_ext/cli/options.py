# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ModelFileError

Function = TypeVar("Function", bound=Callable[..., Any])
if TYPE_CHECKING:
    TextType = click.ParamType[str]  # generic for the type checker of newer releases only
else:
    TextType = click.ParamType


FILE = click.Path(readable=False)  # whoever opens the file says what is wrong with it


class FormatName(TextType):
    """The name of a weight format, as the library lists them."""

    name = "format"

    def __init__(self, offered_only: bool = True) -> None:
        self._offered_only = offered_only

    def _names(self) -> list[str]:
        from ..quant.formats import formats

        return [row.name for row in formats().values() if row.offered or not self._offered_only]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self._names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self._names():
            self.fail(f"{value!r} is not one of {', '.join(self._names())}", param, ctx)
        return str(value)


def format_options(function: Function) -> Function:
    """Add --dtype and --head-dtype."""
    function = click.option(
        "--head-dtype",
        "head_format",
        type=FormatName(offered_only=False),
        help="Format of the embedding and the output matrix; in quantized models 8 bits with 16-bit activations.",
    )(function)
    return click.option("--dtype", type=FormatName(), default="w4a16_g32", show_default=True, help="Weight format.")(
        function
    )


def activations_option(function: Function) -> Function:
    """Add --activations."""
    return click.option(
        "--activations",
        type=click.Choice(["auto", "int8"]),
        help="int8: multiply 4-bit weights with 8-bit activations, faster and less precise. Default: with 16-bit ones.",
    )(function)


def sampling_options(temperature: float) -> Callable[[Function], Function]:
    """Add the options of an answer; their names are those of `LLM`."""

    def add(function: Function) -> Function:
        for option in reversed(
            [
                click.option(
                    "--tokens", "max_new_tokens", default=512, show_default=True, help="Longest answer; -1: any."
                ),
                click.option(
                    "--temp",
                    "temperature",
                    default=temperature,
                    show_default=True,
                    help="0: always the likeliest token.",
                ),
                click.option(
                    "--top-k", default=40, show_default=True, help="Choose among the k likeliest tokens; 0: all."
                ),
                click.option(
                    "--top-p", default=0.9, show_default=True, help="Choose among tokens of this total probability."
                ),
                click.option("--repeat-penalty", default=1.1, show_default=True, help="1: off."),
                click.option(
                    "--seed",
                    type=click.IntRange(0, 2**64 - 1),
                    help="Same seed, same answer. Default: a new one each time.",
                ),
                click.option(
                    "--threads", "n_threads", type=click.IntRange(1, 256), help="Default: the machine's cores."
                ),
                click.option(
                    "--context",
                    "max_context_len",
                    type=click.IntRange(1),
                    help="Most tokens of conversation and answer.",
                ),
            ]
        ):
            function = option(function)
        return function

    return add


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file that an option names."""
    try:
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: is not UTF-8 at byte {error.start}") from error

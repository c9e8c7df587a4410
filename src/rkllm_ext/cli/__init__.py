# SPDX-License-Identifier: Apache-2.0
"""The command line, ``rkllm-ext``. A command is one module of this package that holds a click command named `command`.

Modules import click only; what a command works with is imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click

from ..errors import RKLLMError

__all__ = ["main"]


class _Commands(click.Group):
    """The commands that the modules of this package hold."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = [module.name for module in pkgutil.iter_modules(__path__)]
        return [name for name in names if self.get_command(ctx, name) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in {module.name for module in pkgutil.iter_modules(__path__)}:
            return None
        command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), "command", None)
        return command if isinstance(command, click.Command) else None


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"rkllm-ext {version('rkllm_ext')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Print the version."
)
def commands() -> None:
    """Convert language models to .rkllm files, and run them on any CPU."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 after a failure, 2 after wrong usage, 130 after Ctrl-C, 143 after SIGTERM."""
    _use_any_streams()
    with _ending_tidily():
        status = _status(arguments)
    sys.exit(status)


@contextlib.contextmanager
def _ending_tidily() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that it takes its temporary files along.

    Python drops what is raised while a destructor or the callback of a weak reference runs. A signal that is lost in
    this way is sent again.
    """

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    def report(dropped: sys.UnraisableHookArgs) -> None:
        error = dropped.exc_value
        if isinstance(error, KeyboardInterrupt):
            number = int(signal.SIGINT)
        elif isinstance(error, SystemExit) and isinstance(error.code, int) and error.code - 128 in before:
            number = error.code - 128
        else:
            reported(dropped)
            return
        again = threading.Timer(0.01, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) is signal.SIG_DFL:  # nohup ignores one
                before[ending] = signal.signal(ending, end)
    reported, sys.unraisablehook = sys.unraisablehook, report
    try:
        yield
    finally:
        sys.unraisablehook = reported
        for number, handler in before.items():
            signal.signal(number, handler)


def _use_any_streams() -> None:
    """Make do with the streams that there are: closed ones, and terminals that cannot show every character."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - for good
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _status(arguments: list[str] | None) -> int:
    try:
        result = commands.main(arguments, prog_name="rkllm-ext", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _said(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _said("stopped", 130)
    except BrokenPipeError:
        # Whoever read our output has gone; what is left in the buffer has nowhere to go either.
        sys.stdout = None
        return 1
    except RKLLMError as error:
        return _said(str(error), 1)
    except OSError as error:
        return _said(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), 1)


def _said(sentence: str, status: int) -> int:
    click.echo(f"rkllm-ext: {' '.join(sentence.split())}", err=True)
    return status

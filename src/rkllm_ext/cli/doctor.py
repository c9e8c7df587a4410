# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext doctor``"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..board import Board


@click.command("doctor", short_help="Check a board, and fix its frequencies.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--fix-freq", is_flag=True, help="Set the frequencies of the vendor's scripts (RK3588, RK3576; root).")
@click.option("--restore", is_flag=True, help="Undo --fix-freq.")
@click.option("--dry-run", is_flag=True, help="Only print what --fix-freq or --restore would write.")
@click.option("--state", metavar="FILE", help="Where --fix-freq keeps what it changes.  [default: a file in /run]")
@click.option("--root", default="/", type=click.Path(file_okay=False, exists=True), help="Look below this folder.")
def command(as_json: bool, fix_freq: bool, restore: bool, dry_run: bool, state: str | None, root: str) -> int:
    """Check this machine: board, cores, NPU driver, frequencies, memory, limits, and which librkllmrt.so is used.

    Exit status 1 says that there is a problem.
    """
    from ..board import Board
    from ..doctor import as_json as json_of
    from ..doctor import as_text, examine, worst
    from ..library import library_in_use

    if fix_freq and restore:
        raise click.UsageError("--fix-freq and --restore exclude each other")
    if (dry_run or state) and not (fix_freq or restore):
        raise click.UsageError("--dry-run and --state need --fix-freq or --restore")
    if fix_freq or restore:
        return _set_frequencies(Board(root), restore, dry_run, state)
    findings = examine(Board(root), library_in_use)
    click.echo(json_of(findings) if as_json else as_text(findings))
    return 1 if worst(findings) == "problem" else 0


def _set_frequencies(board: Board, restore: bool, dry_run: bool, state: str | None) -> int:
    from ..frequencies import STATE_FILE, apply, forget, plan_fix, plan_restore

    state = state or STATE_FILE
    plan = plan_restore(board, state) if restore else plan_fix(board)
    for sentence in plan.left_out:
        click.echo(f"left out: {sentence}", err=True)
    if dry_run:
        for write in plan.writes:
            click.echo(write)
        return 0
    failures = apply(board, plan, None if restore else state)
    for sentence in failures:
        click.echo(f"rkllm-ext: {sentence}", err=True)
    if restore and not failures:
        forget(board, state)
    done = len(plan.writes) - len(failures)
    click.echo(f"restored {done} values" if restore else f"set {done} values; rkllm-ext doctor --restore undoes it")
    return 1 if failures else 0

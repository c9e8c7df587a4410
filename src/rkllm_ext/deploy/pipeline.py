# SPDX-License-Identifier: Apache-2.0
"""A deployment in its order: look at the board, install, push, set frequencies, start, wait."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidArgumentError, RKLLMError
from .environment import Environment
from .files import Transfer
from .reach import Answer, Board, Reach
from .service import Service
from .survey import PLATFORMS, Survey, check_kind, check_room, survey

__all__ = ["SERVERS", "Order", "deploy"]

#: Kinds of servers, by the vendor's names -> the command that runs one, the extras of the package it needs.
SERVERS = {"flask": ("serve", "server"), "gradio": ("ui", "server,ui")}
_OLDEST_FOR_GRADIO = (3, 10)
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/+@-]*")


@dataclass(frozen=True)
class Order:
    """What to deploy.

    Attributes
    ----------
    workshop
        The board's folder for all of it.
    model, lora, prompt_cache
        Files of this machine, which are pushed, or absolute paths of files that the board has.
    platform
        One of PLATFORMS.
    server
        One of SERVERS.
    listen, port
        Where the server listens.
    wheel
        A wheel of this package, or a folder of wheels; None: from a package index.
    offline
        Do not let the board fetch packages.
    python
        The board's Python.
    seconds
        How long to wait for the server.
    arguments
        More arguments of the server.
    root
        A folder of the board that stands for its "/" where facts are read and the unit is written.
    """

    workshop: str
    model: str
    platform: str
    lora: str = ""
    prompt_cache: str = ""
    server: str = "flask"
    listen: str = "0.0.0.0"
    port: int = 8080
    wheel: Path | None = None
    offline: bool = False
    python: str = "python3"
    seconds: int = 300
    arguments: tuple[str, ...] = field(default=())
    root: str = ""

    def __post_init__(self) -> None:
        if self.platform not in PLATFORMS:
            raise InvalidArgumentError(f"platform is '{self.platform}', but must be one of {', '.join(PLATFORMS)}")
        if self.server not in SERVERS:
            raise InvalidArgumentError(f"server is '{self.server}', but must be one of {', '.join(SERVERS)}")
        if self.server == "gradio" and (self.lora or self.prompt_cache):
            raise InvalidArgumentError("the page (gradio) has no adapters and prompt caches; choose the server flask")
        for name, path in (("workshop", self.workshop), ("root", self.root or "/")):
            if not _PLAIN_PATH.fullmatch(path):
                raise InvalidArgumentError(
                    f"{name} is '{path}', but must be an absolute path of the board of letters, digits and . _ / + @ -"
                )
        for path in (self.model, self.lora, self.prompt_cache):
            if path and not Path(path).is_file() and not Path(path).is_absolute():
                raise InvalidArgumentError(f"{path}: no such file here, and no absolute path of a file on the board")


@dataclass
class _File:
    """A file that the server reads, on the board."""

    remote: str
    size: int
    sum: str  # changes when the file does
    transfer: Transfer | None = None  # None: the board has it already

    @property
    def missing(self) -> int:
        return self.transfer.missing if self.transfer is not None else 0


class _Unreached:
    """Stands for a board that does not answer, in a dry run: every question is left open."""

    def __init__(self, reach: Reach) -> None:
        self.name = reach.name
        self.address = reach.address
        self.command = reach.command
        self.append = reach.append
        self.close = reach.close

    def run(self, script: str) -> Answer:
        return Answer(1, "", "")


def deploy(board: Board, order: Order) -> str:
    """Bring a model to a board and serve it there. Returns the server's URL.

    What is there already is left as it is, so calling it again goes on behind a failure, and changes nothing when all
    is done. In a dry run every command is shown, and only those run that change nothing.

    Raises
    ------
    RKLLMError
        The board cannot be reached or will not do, or a step failed.
    """
    workshop = order.workshop.rstrip("/")
    facts = _facts(board, order, workshop)
    board.say(f"board: {facts}")
    check_kind(facts, order.platform)
    if order.server == "gradio" and facts.python is not None and facts.python < _OLDEST_FOR_GRADIO:
        raise RKLLMError(
            "the board has Python {}.{}, but gradio needs {}.{}".format(*facts.python, *_OLDEST_FOR_GRADIO)
            + " or later; name another --python or choose the server flask"
        )
    environment = Environment(board, facts, workshop, SERVERS[order.server][1], order.wheel)
    installed = environment.is_there()
    given = [each for each in (order.model, order.lora, order.prompt_cache) if each]
    files = [_find(board, each, f"{workshop}/models") for each in given]
    missing = sum(file.missing for file in files)
    for warning in check_room(facts, workshop, files[0].size, missing, not installed):
        board.say(f"warning: {warning}")

    if not installed:
        board.say(f"installing rkllm_ext into {environment.folder}")
        board.do(f"mkdir -p {shlex.quote(workshop)}", "making the workshop")
        environment.install(order.python, order.offline)
    for file in files:
        if file.transfer is not None and not file.transfer.is_there:
            board.say(f"pushing {Path(file.remote).name}, {file.missing / 1e6:.1f} MB of {file.size / 1e6:.1f}")
            file.transfer.push()
    fix = _fix_frequencies(board, order, facts, environment.program)
    _tell_findings(board, order, environment.program)
    service = _service(order, facts, environment, files, fix)
    url = _url(board, order, facts)
    if service.runs(board):
        board.say("the server runs already, nothing has changed")
        return url
    board.say("starting the server")
    service.start(board)
    service.wait(board, order.seconds)
    return url


def _facts(board: Board, order: Order, workshop: str) -> Survey:
    try:
        return survey(board, workshop, order.python, order.root)
    except RKLLMError as error:
        if not board.dry_run:
            raise
        board.say(f"{error}; a fresh board with systemd is assumed")
        board.reach = _Unreached(board.reach)
        return Survey(machine="x86_64" if order.platform == "cpu" else "aarch64")


def _find(board: Board, given: str, folder: str) -> _File:
    """Find a file here or on the board."""
    local = Path(given)
    if local.is_file():
        remote = f"{folder}/{local.name}"
        transfer = Transfer(board, local, remote)
        return _File(remote, transfer.size, transfer.sum, transfer)
    name = shlex.quote(given)
    answer = board.ask(f"wc -c < {name} && ls -l {name}")
    if answer.status != 0 and not isinstance(board.reach, _Unreached):
        raise RKLLMError(f"{given}: no such file here, nor on the board ({board.name})")
    size = re.match(r"\s*(\d+)", answer.out)
    return _File(given, int(size.group(1)) if size else 0, " ".join(answer.out.split()))


def _service(order: Order, facts: Survey, environment: Environment, files: list[_File], before: list[str]) -> Service:
    """Return the server of an order. files: model, adapter, prompt cache; before: what runs before each start."""
    given = iter(files)
    arguments = [environment.program, SERVERS[order.server][0], next(given).remote]
    arguments += ["--host", order.listen, "--port", str(order.port)]
    if order.lora:
        adapter = next(given).remote
        arguments += ["--lora", f"{Path(adapter).stem}={adapter}"]
    if order.prompt_cache:
        arguments += ["--prompt-cache", next(given).remote]
    return Service(
        order.workshop.rstrip("/"),
        [*arguments, *order.arguments],
        user=facts.user,
        sudo=_sudo(facts),
        systemd=facts.systemd and bool(facts.root),
        before=before,
        contents=" ".join([environment.stamp, *(file.sum for file in files)]),
        root=order.root,
    )


def _sudo(facts: Survey) -> str:
    return "sudo -n " if facts.root == "sudo" else ""


def _fix_frequencies(board: Board, order: Order, facts: Survey, program: str) -> list[str]:
    """Set the board's frequencies and return the command that does; empty where it cannot be done."""
    if order.platform == "cpu" or not facts.root:
        return []
    fix = [program, "doctor", "--fix-freq", *(["--root", order.root] if order.root else [])]
    answer = board.attempt(_sudo(facts) + shlex.join(fix))
    if answer.status != 0:
        board.say(f"warning: the frequencies are not all set: {answer.reason}")
    elif answer.out:
        board.say(f"frequencies: {answer.out.strip()}")
    return fix


def _tell_findings(board: Board, order: Order, program: str) -> None:
    """Look at the board with the package's own eyes and tell what is not as it should be."""
    answer = board.ask(shlex.join([program, "doctor", "--json", *(["--root", order.root] if order.root else [])]))
    begin = answer.out.find("{")
    for finding in json.loads(answer.out[begin:])["findings"] if begin >= 0 else []:
        if finding["level"] != "ok":
            board.say(f"{finding['level']}: {finding['name']}: {finding['value']}; {finding['advice']}")


def _url(board: Board, order: Order, facts: Survey) -> str:
    anywhere = order.listen in ("0.0.0.0", "::")
    address = (board.reach.address or facts.address) if anywhere else order.listen
    if address is None:
        board.say(f"the board has no address; adb forward tcp:{order.port} tcp:{order.port} brings the server here")
        address = "127.0.0.1"
    return f"http://{f'[{address}]' if ':' in address else address}:{order.port}/"

# SPDX-License-Identifier: Apache-2.0
"""A file of requests and a file of answers, in the line format of OpenAI's batches; what has been answered is skipped.

A request is `{"custom_id", "method": "POST", "url", "body"}`, its answer `{"id", "custom_id", "response", "error"}`; a
response is `{"status_code", "request_id", "body"}`. The application of `create_app` answers, in this process.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from ..errors import BusyError, InvalidArgumentError
from .app import create_app
from .model import Model
from .serving import to_json

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_MOST_QUEUE = 4096  # a request may ask for many answers
Line = Mapping[str, Any]


def requests_of(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the requests of a file.

    Raises
    ------
    InvalidArgumentError
        A line is no request; the sentence has its number. Or the file is none that can be read twice.
    OSError
    """
    seen: set[str] = set()
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        _check_regular(file.fileno(), path)
        for number, raw in enumerate(file, 1):
            if raw.strip():
                try:
                    line = _checked(raw)
                    if line["custom_id"] in seen:
                        raise ValueError(f"the custom_id {line['custom_id']!r} was there before; each needs its own")
                except ValueError as error:
                    raise InvalidArgumentError(f"{os.fspath(path)}: line {number}: {error}") from None
                seen.add(line["custom_id"])
                yield line


def _check_regular(file: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise InvalidArgumentError(f"{os.fspath(path)}: is not a regular file; a batch that can be resumed needs one")


def _checked(raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
        raise ValueError("is not a request: an object with custom_id, method, url and body is needed")
    if line.get("method") != "POST":
        raise ValueError(f"the method is {line.get('method')!r}; only POST is possible")
    if line.get("url") not in URLS:
        raise ValueError(f"the url is {line.get('url')!r}; possible are {', '.join(URLS)}")
    if not isinstance(line.get("body"), dict):
        raise ValueError("the body must be an object")
    if line["body"].get("stream"):
        raise ValueError("stream is not possible in a batch")
    return line


class Answers:
    """The file of answers: a context manager that holds it for this process alone.

    Parameters
    ----------
    path : str or os.PathLike
        Goes on where it ends; half a line, of a process that was killed, is cut off.

    Attributes
    ----------
    done : set of str
        The custom_ids that are answered.

    Raises
    ------
    BusyError
        Another process writes it.
    InvalidArgumentError
        It holds something else, or is a pipe or a device.
    OSError
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.done: set[str] = set()
        try:
            _check_regular(self._file, path)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, self._read())
        except BlockingIOError:
            os.close(self._file)
            raise BusyError(f"{self._path}: another process writes it; wait for its end") from None
        except BaseException:
            os.close(self._file)
            raise

    def _read(self) -> int:
        # The bytes up to the last whole line.
        end = 0
        with open(self._path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    break
                try:
                    row = json.loads(raw)
                    if "response" not in row:
                        raise ValueError
                    self.done.add(row["custom_id"])
                except (ValueError, KeyError, TypeError):
                    raise InvalidArgumentError(
                        f"{self._path}: line {number} is no answer of a batch; name another file"
                    ) from None
                end += len(raw)
        return end

    def add(self, answer: Line) -> None:
        """Append an answer. It is in the file as a whole, or not at all once it is opened again."""
        data = (to_json(answer) + "\n").encode()
        while data:  # one write, but on a full disk
            data = data[os.write(self._file, data) :]
        self.done.add(answer["custom_id"])

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file)
        os.close(self._file)


class Answerer:
    """Answers the requests of a batch with one or several models, many at once. A context manager.

    Parameters
    ----------
    models : mapping of str to path
        By the names that requests have for them; all but the first are loaded when they are needed.
    whatever : bool
        The first model answers, whatever model a request names.
    parallel : int
        Answers that are computed together.
    **settings
        Of `LLM`.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        whatever: bool = False,
        parallel: int = 4,
        **settings: Any,
    ) -> None:
        name, path = next(iter(models.items()))
        first = Model(path, name, **settings)
        self._app = create_app(
            first, others=models, parallel=parallel, max_queue=_MOST_QUEUE, timeout=None, most_body=2**30, **settings
        )
        self._models = self._app.extensions["rkllm"]
        self._name = name if whatever else None
        self._most = 2 * parallel
        self._threads = ThreadPoolExecutor(self._most, "batch")  # as many again make ready what comes next

    def answer(self, line: Line) -> dict[str, Any]:
        """Return the answer of a request; one that fails is an answer, too."""
        body = line["body"] if self._name is None else {**line["body"], "model": self._name}
        reply = self._app.test_client().post(line["url"], data=to_json(body), content_type="application/json")
        response = {"status_code": reply.status_code, "request_id": _id("req"), "body": reply.get_json()}
        return {"id": _id("batch_req"), "custom_id": line["custom_id"], "response": response, "error": None}

    def answers(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """Yield the answers of requests as they end."""
        running: set[Future[dict[str, Any]]] = set()
        for line in lines:
            running.add(self._threads.submit(self.answer, line))
            if len(running) >= 2 * self._most:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in ended)
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in ended)

    def close(self) -> None:
        """Give up what is not answered and free the models."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._models.close()
        self._threads.shutdown()

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"

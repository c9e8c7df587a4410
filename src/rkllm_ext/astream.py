# SPDX-License-Identifier: Apache-2.0
"""A run for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ._rkllm import Piece
    from .results import Perf
    from .stream import Stream


class AsyncStream:
    """The pieces of a run for `async for`; made by `LLM.astream`.

    The library's queue tells the event loop through a file descriptor, so there is no thread between the two. Leaving
    an `async with` block, or `aclose`, aborts a run that lasts and waits for its end; a stream that is dropped or whose
    task is cancelled aborts it and leaves the waiting to the model's next run. Belongs to the loop of the task that
    reads it.

    Examples
    --------
    >>> async def tell(llm):
    ...     async for piece in llm.astream("Once upon a time"):
    ...         print(piece.text, end="")
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def finish_reason(self) -> str | None:
        """Why the run ended, as in `Generation`; None before the end."""
        return self._stream.finish_reason

    @property
    def perf(self) -> Perf | None:
        """Figures of the run, from its end on."""
        return self._stream.perf

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        try:
            if not self._stream.buffered:
                await asyncio.sleep(0)  # a model that is faster than its reader must not keep the loop from other tasks
                await self._until_ready()
            return next(self._stream)
        except StopIteration:
            raise StopAsyncIteration from None
        except BaseException:  # a cancelled task, for one; the event loop is not to wait for the library
            self._stream.cancel()
            raise

    async def _until_ready(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stream.ready():
            readable = loop.create_future()
            descriptor = self._stream.fileno()
            # Registered only while it is waited for: nothing is left behind when the stream is dropped.
            loop.add_reader(descriptor, _wake, readable)
            try:
                if not self._stream.ready():  # the descriptor tells only of what comes after it was made
                    await readable
            finally:
                loop.remove_reader(descriptor)

    async def aclose(self) -> None:
        """Abort the run, if it lasts, and wait for its end."""
        self._stream.cancel()
        while not self._stream.ended:
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._stream.cancel()


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)

# SPDX-License-Identifier: Apache-2.0
"""Tokens as text, whole characters at a time, up to a stop text."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

from .request import Token

_Decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one answer as its tokens come.

    Parameters
    ----------
    tokens : sequence of bytes
        What each id stands for.
    hidden : collection of int
        Ids that are no part of the text.
    stop : sequence of str
        The first of these to be complete ends the text, before it; of several that end at the same character the
        longest counts.
    """

    def __init__(self, tokens: Sequence[bytes], hidden: Collection[int], stop: Sequence[str] = ()) -> None:
        self._tokens = tokens
        self._hidden = hidden
        self._stop = stop
        self._decoder = _Decoder("replace")
        self._held = ""  # could be the beginning of a stop text
        self._begun = 0  # characters of the text, held ones included
        self._waiting: list[tuple[int, Token]] = []  # where a token begins that has not been delivered
        self.stopped = False

    def push(self, token: Token) -> tuple[str, list[Token]]:
        """Return the text that may be delivered now, and the tokens that it begins with."""
        found = "" if token.token_id in self._hidden else self._decoder.decode(self._tokens[token.token_id])
        if not self._stop:
            return found, [token]
        self._waiting.append((self._begun, token))
        return self._deliver(found)

    def finish(self) -> tuple[str, list[Token]]:
        """Return what is held: the answer has ended. A character that is not complete is left out."""
        if self.stopped:
            return "", []
        tokens = [token for _, token in self._waiting]
        text, self._held, self._waiting = self._held, "", []
        return text, tokens

    def _deliver(self, found: str) -> tuple[str, list[Token]]:
        text = self._held + found
        self._begun += len(found)
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            cut = min(ends)[1]
        else:
            cut = len(text) - max(overlap(text, stop) for stop in self._stop)
        text, self._held = text[:cut], text[cut:]
        # What begins before the cut is delivered; so are tokens without text of their own when nothing is held.
        edge = self._begun - len(self._held)
        ready = [token for at, token in self._waiting if at < edge or not self._held]
        self._waiting = [(at, token) for at, token in self._waiting if at >= edge and self._held]
        return text, ready


def overlap(text: str, stop: str) -> int:
    """Return how many of a text's last characters are a beginning of the stop text, all of it not counted."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)

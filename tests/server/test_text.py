# SPDX-License-Identifier: Apache-2.0
"""Text of tokens: whole characters, and stop texts however tokens cut them."""

from __future__ import annotations

import random

import pytest

from rkllm_ext.server.queue import FairQueue
from rkllm_ext.server.request import Token
from rkllm_ext.server.text import TextStream


def read(data: bytes, sizes: list[int], stop: list[str]) -> tuple[str, list[int], bool]:
    """Push the bytes in tokens of these sizes; return the text, the tokens that came and whether it has stopped."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    stream = TextStream(pieces, (), stop)
    text, tokens = "", []
    for token in range(len(pieces)):
        more, delivered = stream.push(Token(token))
        text, tokens = text + more, tokens + [row.token_id for row in delivered]
        if stream.stopped:
            break
    more, delivered = stream.finish()
    return text + more, tokens + [row.token_id for row in delivered], stream.stopped


@pytest.mark.parametrize("seed", range(200))
def test_texts_and_their_ends_do_not_depend_on_how_tokens_cut_them(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("abé€😀") for _ in range(rng.randint(0, 30)))
    stop = ["".join(rng.choice("abé€😀") for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(0, 3))]
    ends = [(text.find(each) + len(each), text.find(each)) for each in stop if each in text]
    expected = text[: min(ends)[1]] if ends else text
    data = text.encode()
    sizes = []
    while sum(sizes) < len(data):
        sizes.append(min(rng.randint(0, 4), len(data) - sum(sizes)))
    found, tokens, stopped = read(data, sizes, stop)
    assert found == expected
    assert stopped == bool(ends)
    assert tokens == list(range(len(tokens)))
    if not ends:
        assert len(tokens) == len(sizes)
    else:  # the tokens that came cover the text
        assert sum(sizes[: len(tokens)]) >= len(expected.encode())


def test_no_event_holds_a_part_of_a_character() -> None:
    stream = TextStream([b"\xf0\x9f", b"\x98\x80!", b"\xe2"], ())
    assert [stream.push(Token(i))[0] for i in range(3)] == ["", "😀!", ""]
    assert stream.finish() == ("", [])


def test_hidden_tokens_come_without_text() -> None:
    stream = TextStream([b"<end>", b"a"], {0}, ["zz"])
    assert stream.push(Token(0)) == ("", [Token(0)])
    assert stream.push(Token(1)) == ("a", [Token(1)])


def test_a_queue_is_fair_and_keeps_each_clients_order() -> None:
    queue: FairQueue[int] = FairQueue()
    for client, item in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("c", 6)]:
        queue.put(client, item)
    assert queue.take(lambda item: item != 1) == 4  # a's first one is not ready: a waits, others go on
    assert queue.remove(lambda item: item == 2) == [2]
    assert [queue.take(lambda item: True) for _ in range(4)] == [1, 5, 3, 6]
    assert queue.take(lambda item: True) is None
    assert len(queue) == 0

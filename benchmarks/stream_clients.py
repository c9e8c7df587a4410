# SPDX-License-Identifier: Apache-2.0
"""Clients that stream completions at the same time, as cheap as clients can be:
python benchmarks/stream_clients.py PORT MODEL CLIENTS TOKENS

A process of its own with one thread and plain sockets, so that little of what is measured is the clients' own work.
Prints JSON: the events of all clients, the seconds between the first event and the last, the longest pause between two
reads of one client, and the processor time that the clients took.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import time

PROMPT = "Once upon a time there was a small robot who lived in house number {number}. One day"
_EVENT = b"data: {"


def request(port: int, model: str, number: int, tokens: int) -> bytes:
    """Return the bytes of a request for a stream of so many greedy tokens."""
    body = {"model": model, "prompt": PROMPT.format(number=number), "max_tokens": tokens, "stream": True}
    body.update(temperature=0, ignore_eos=True)  # the latter is a field of ours, which others pass over
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def streams(port: int, model: str, count: int, tokens: int) -> dict[str, float]:
    """Read so many streams to their ends."""
    found: dict[int, list[bytes]] = {}
    times: dict[int, list[float]] = {}
    poll = select.poll()
    sockets = {}
    for number in range(count):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request(port, model, number, tokens))
        sockets[client.fileno()] = client
        found[client.fileno()], times[client.fileno()] = [], []
        poll.register(client, select.POLLIN)
    began = time.process_time()
    while sockets:
        for number, _ in poll.poll(600_000):
            data = sockets[number].recv(65536)
            if not data:
                poll.unregister(number)
                sockets.pop(number).close()
                continue
            found[number].append(data)
            if _EVENT in data:
                times[number].append(time.perf_counter())
    taken = time.process_time() - began
    for data in map(b"".join, found.values()):
        if not data.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in data:
            raise SystemExit(f"a stream failed: {data[:300]!r}")
    events = sum(b"".join(data).count(_EVENT) for data in found.values())
    first, last = min(each[0] for each in times.values()), max(each[-1] for each in times.values())
    pauses = [later - earlier for each in times.values() for earlier, later in zip(each, each[1:])]
    return {
        "events": events,
        "seconds": max(last - first, 1e-6),  # a short answer of a small model can come in one piece
        "longest_pause": max(pauses, default=0.0),
        "reads": sum(map(len, times.values())),
        "processor_seconds": taken,
    }


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("model", help="its name at the server")
    parser.add_argument("clients", type=int)
    parser.add_argument("tokens", type=int)
    options = parser.parse_args()
    print(json.dumps(streams(options.port, options.model, options.clients, options.tokens)))


if __name__ == "__main__":
    main()

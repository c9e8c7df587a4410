# SPDX-License-Identifier: Apache-2.0
"""How fast is the server, for one client and for several?  python benchmarks/bench_server.py model.rkllm

Each round measures, one after the other, the engine without a server (`LLM.generate`), our server and, with --peer, the
server of llama-cpp-python; the median of the rounds is given. Clients stream completions of so many tokens at the same
time; tokens/s are those of all clients between the first token of all and the last. --peer takes a GGUF file of the
same model and needs --peer-python, an interpreter that has `llama_cpp.server`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import rkllm_ext

PROMPT = "Once upon a time there was a small robot who lived in house number {number}. One day"


def engine_speed(path: Path, threads: int, tokens: int) -> float:
    """Return tokens/s of a run without a server."""
    with rkllm_ext.LLM(path, max_context_len=1024, n_threads=threads) as llm:
        for _ in range(2):  # the first one warms up
            answer = llm.generate(PROMPT.format(number=0), max_new_tokens=tokens, top_k=1, ignore_eos=True)
    assert answer.perf is not None
    return answer.perf.generate_tokens_per_second


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process on loopback; a context manager."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Server:
        for _ in range(600):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/v1/models")
                self.model = json.loads(connection.getresponse().read())["data"][0]["id"]
                return self
            except OSError:
                if self._process.poll() is not None:
                    raise SystemExit("the server has ended before it took requests") from None
                time.sleep(0.1)
        raise SystemExit("the server does not answer")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def ours(path: Path, threads: int) -> Server:
    port = free_port()
    program = "from rkllm_ext.cli import main; main()"
    options = ["--port", str(port), "--context", "1024", "--threads", str(threads)]
    return Server([sys.executable, "-c", program, "serve", str(path), *options], port)


def peers(python: str, path: Path, threads: int) -> Server:
    port = free_port()
    options = ["--port", str(port), "--n_ctx", "1024", "--n_threads", str(threads), "--interrupt_requests", "false"]
    return Server([python, "-m", "llama_cpp.server", "--model", str(path), *options], port)


def stream(server: Server, number: int, tokens: int, times: list[float]) -> None:
    """Ask for a completion and note when each of its pieces comes."""
    body = {"model": server.model, "prompt": PROMPT.format(number=number), "max_tokens": tokens, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request(
        "POST", "/v1/completions", json.dumps({**body, "temperature": 0}), {"Content-Type": "application/json"}
    )
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    for line in reply:
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())


def clients_speed(server: Server, count: int, tokens: int) -> float:
    """Return the tokens/s of so many clients together."""
    times: list[list[float]] = [[] for _ in range(count)]
    threads = [threading.Thread(target=stream, args=(server, n, tokens, times[n])) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, last = min(each[0] for each in times), max(each[-1] for each in times)
    return (sum(map(len, times)) - count) / (last - first)


def measure(
    path: Path, counts: list[int], threads: int, tokens: int, rounds: int, peer: tuple[str, Path] | None = None
) -> dict[str, float]:
    """Return tokens/s by what was measured, medians of the rounds."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        found.setdefault("engine", []).append(engine_speed(path, threads, tokens))
        servers = [("server", lambda: ours(path, threads))]
        if peer is not None:
            servers.append(("peer", lambda: peers(*peer, threads)))
        for name, start in servers:
            with start() as server:
                clients_speed(server, 1, 8)
                for count in counts:
                    found.setdefault(f"{name}, {count}", []).append(clients_speed(server, count, tokens))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="a GGUF file of the same model")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    peer = None if options.peer is None else (options.peer_python, options.peer)
    speeds = measure(options.model, options.clients, options.threads, options.tokens, options.rounds, peer)
    if options.json:
        print(json.dumps({"model": options.model.name, "threads": options.threads, "tokens_per_second": speeds}))
        return
    print(f"{options.model.name}, {options.threads} threads, {options.tokens} tokens a client")
    print(f"{'':>12} {'tokens/s':>9} {'x engine':>9} {'x one':>6}")
    for name, speed in speeds.items():
        one = speeds.get(f"{name.partition(',')[0]}, {options.clients[0]}", speed)
        print(f"{name:>12} {speed:>9.1f} {speed / speeds['engine']:>9.2f} {speed / one:>6.2f}")


if __name__ == "__main__":
    main()

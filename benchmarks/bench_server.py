# SPDX-License-Identifier: Apache-2.0
"""How fast is the server, for one client and for several?  python benchmarks/bench_server.py model.rkllm

Measured in turns, all within some seconds of each other, and given as medians of the rounds: the engine without a
server (`LLM.generate`, and as many sessions that decode together), our server and, with --peer, the server of
llama-cpp-python. Clients stream completions of so many greedy tokens at the same time; tokens/s are those of all
clients between the first token of all and the last. The clients are one process with one thread (stream_clients.py),
the same for both servers. --peer takes a GGUF file of the same model and needs --peer-python, an interpreter that has
`llama_cpp.server`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from stream_clients import PROMPT

import rkllm_ext
from rkllm_ext._rkllm import Decoding

CLIENTS = Path(__file__).with_name("stream_clients.py")
Speed = Callable[[int], float]  # of so many at the same time, tokens/s


def engine_speeds(llm: rkllm_ext.LLM, tokens: int) -> dict[str, Speed]:
    """Return what measures the engine: a run, and sessions that decode together."""

    def run(_: int) -> float:
        answer = llm.generate(PROMPT.format(number=0), max_new_tokens=tokens, top_k=1, ignore_eos=True)
        assert answer.perf is not None
        return answer.perf.generate_tokens_per_second

    def together(count: int) -> float:
        sessions = [llm.session(top_k=1) for _ in range(count)]
        for number, session in enumerate(sessions):
            session.prefill(PROMPT.format(number=number))
        decoding = Decoding(sessions, [session.sample() for session in sessions], most=tokens - 1)
        start = time.perf_counter()
        decoding.run()
        elapsed = time.perf_counter() - start
        for session in sessions:
            session.close()
        return count * (tokens - 1) / elapsed

    return {"engine": run, "sessions": together}


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


def clients_speed(server: Server, count: int, tokens: int) -> float:
    """Return the tokens/s of so many clients together."""
    arguments = [str(server.port), server.model, str(count), str(tokens)]
    found = json.loads(subprocess.check_output([sys.executable, "-I", str(CLIENTS), *arguments]))
    return float((found["events"] - count) / found["seconds"])


def measure(
    path: Path, counts: list[int], threads: int, tokens: int, rounds: int, peer: tuple[str, Path] | None = None
) -> dict[str, float]:
    """Return tokens/s by what was measured, medians of the rounds."""
    with ExitStack() as stack:
        llm = stack.enter_context(rkllm_ext.LLM(path, max_context_len=1024, n_threads=threads))
        speeds = engine_speeds(llm, tokens)
        servers = {"server": ours(path, threads), **({} if peer is None else {"peer": peers(*peer, threads)})}
        for name, server in servers.items():
            speeds[name] = partial(clients_speed, stack.enter_context(server), tokens=tokens)
        found: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for name, speed in speeds.items():
                for count in counts if name != "engine" else counts[:1]:
                    taken = speed(count)
                    if number > 0:  # the first round warms up
                        found.setdefault(name if name == "engine" else f"{name}, {count}", []).append(taken)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", type=Path, help="a GGUF file of the same model")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    peer = None if options.peer is None else (options.peer_python, options.peer)
    speeds = measure(options.model, options.clients, options.threads, options.tokens, options.rounds, peer)
    if options.json:
        print(json.dumps({"model": options.model.name, "threads": options.threads, "tokens_per_second": speeds}))
        return
    print(f"{options.model.name}, {options.threads} threads, {options.tokens} tokens each, {options.rounds} rounds")
    print(f"{'':>12} {'tokens/s':>9} {'x engine':>9} {'x one':>6}")
    for name, speed in speeds.items():
        one = speeds.get(f"{name.partition(',')[0]}, {options.clients[0]}", speed)
        print(f"{name:>12} {speed:>9.1f} {speed / speeds['engine']:>9.2f} {speed / one:>6.2f}")


if __name__ == "__main__":
    main()

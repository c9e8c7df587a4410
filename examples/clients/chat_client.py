# SPDX-License-Identifier: Apache-2.0
"""Talk with a server through the vendor's route, with nothing but the standard library.

python chat_client.py [--url http://127.0.0.1:8080] [--whole]
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from collections.abc import Iterator
from typing import Any


def answer(url: str, messages: list[dict[str, str]], stream: bool) -> Iterator[str]:
    """Yield the pieces of an answer; one piece without stream."""
    body = {"model": "any", "messages": messages, "stream": stream}
    request = urllib.request.Request(
        f"{url}/rkllm_chat", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        if not stream:
            yield json.load(reply)["choices"][-1]["message"]["content"]
            return
        for line in reply:  # JSON objects with blank lines between
            if line.strip():
                part: dict[str, Any] = json.loads(line)["choices"][-1]
                if part["finish_reason"] != "stop":
                    yield part["delta"]["content"]


def main() -> None:
    """Read questions from the terminal until an empty line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--whole", action="store_true", help="wait for whole answers")
    options = parser.parse_args()
    messages: list[dict[str, str]] = []
    while True:
        try:
            question = input("> ")
        except EOFError:
            return
        if not question:
            return
        messages.append({"role": "user", "content": question})
        text = ""
        for piece in answer(options.url, messages, not options.whole):
            print(piece, end="", flush=True)
            text += piece
        print()
        messages.append({"role": "assistant", "content": text})


if __name__ == "__main__":
    main()

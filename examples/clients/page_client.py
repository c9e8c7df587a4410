# SPDX-License-Identifier: Apache-2.0
"""A conversation with the page of `rkllm-ext ui`, through the functions that the vendor's page has, too.

pip install gradio_client
"""

from __future__ import annotations

import argparse

from gradio_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--auth", metavar="NAME:PASSWORD", help="what the page asks for")
    options = parser.parse_args()
    auth = tuple(options.auth.split(":", 1)) if options.auth else None
    client = Client(options.url, auth=auth, verbose=False)
    history: list[list[str | None]] = []
    while True:
        try:
            question = input("> ")
        except EOFError:
            return
        if not question:
            return
        _, history = client.predict(user_message=question, history=history, api_name="/get_user_input")
        printed = 0
        for grown in client.submit(history=history, api_name="/get_RKLLM_output"):
            history, answer = grown, grown[-1][1]
            print(answer[printed:], end="", flush=True)
            printed = len(answer)
        print()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Plays the command rkllm-ext on a board: the real doctor, and servers that say what they were called with."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import sys
from pathlib import Path


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print("rkllm-ext 99.0")
    elif arguments[0] == "doctor":
        code = "from rkllm_ext.cli import main; main()"
        os.execv("REAL_PYTHON", ["REAL_PYTHON", "-c", code, *arguments])
    elif "--broken" in arguments:
        sys.exit("the model cannot be loaded: the file is damaged")
    elif arguments[0] in ("serve", "ui"):
        serve(arguments)


def serve(arguments: list[str]) -> None:
    sum_of = hashlib.sha256(Path(arguments[1]).read_bytes()).hexdigest()
    answer = {"arguments": arguments, "model": sum_of, "pid": os.getpid(), "library": os.environ.get("LD_LIBRARY_PATH")}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    address = (arguments[arguments.index("--host") + 1], int(arguments[arguments.index("--port") + 1]))
    server = http.server.HTTPServer(address, Handler)
    print("RKLLM Model has been initialized successfully!")
    server.serve_forever()

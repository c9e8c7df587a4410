# SPDX-License-Identifier: Apache-2.0
"""vendor_stub.c, built as a library of one generation of the vendor's interface, and the log of its calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiling import Compile
from underneath import SHARED, folder_of, run

STUB = Path(__file__).with_name("vendor_stub.c")
RELEASES = {"C": "1.1.4", "D": "1.2.0", "F": "1.2.3", "G": "1.3.0"}
DRIVEN = ("C", "F", "G")


@dataclass(frozen=True)
class Stub:
    """A library of one generation in a folder."""

    generation: str
    folder: Path

    def run(self, code: str, **settings: object) -> list[str]:
        """Run code on it and return the lines that are printed. The log of its calls starts anew."""
        self.log.unlink(missing_ok=True)
        return run(self.folder, code, STUB_LOG=self.log, **settings).splitlines()

    @property
    def log(self) -> Path:
        return self.folder / "calls"

    def calls(self, name: str = "") -> list[dict[str, Any]]:
        """Return the calls of one function, or all."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        rows = [json.loads(line) for line in lines]
        return [row for row in rows if name in ("", row["call"])]


def build(compile_c: Compile, folder: Path, generation: str, version: str, *more: str) -> Stub:
    """Compile a stub, with further flags, into a folder."""
    flags = (f"-DGENERATION='{generation}'", f'-DVERSION="{version}"', *more)
    name = f"stub-{generation}.so"
    return Stub(generation, folder_of(compile_c(STUB, name, *flags, *SHARED), folder))

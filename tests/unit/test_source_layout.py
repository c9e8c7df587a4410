# SPDX-License-Identifier: Apache-2.0
"""How source files are laid out where no linter looks: C, C++, Cython, and the length of every file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FOLDERS = ["src", "include", "tests", "examples", "benchmarks"]
COMPILED = {".c", ".cpp", ".h", ".inl", ".def", ".pyx", ".pxd", ".pxi"}
COLUMNS = 120
LINES = 600


def sources(repo: Path, suffixes: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the path and the lines of each source file."""
    for folder in FOLDERS:
        for file in sorted((repo / folder).rglob("*")):
            if file.suffix in suffixes and file.is_file():
                yield str(file.relative_to(repo)), file.read_text(encoding="utf-8").splitlines()


def test_compiled_sources_have_no_line_over_120_columns(repo: Path) -> None:
    files = list(sources(repo, COMPILED))
    assert len(files) > 100
    assert [
        f"{path}:{number} has {len(line)}"
        for path, lines in files
        for number, line in enumerate(lines, 1)
        if len(line) > COLUMNS
    ] == []


def test_no_source_is_longer_than_600_lines(repo: Path) -> None:
    files = list(sources(repo, COMPILED | {".py"}))
    assert len(files) > 250
    assert [f"{path} has {len(lines)}" for path, lines in files if len(lines) > LINES] == []


def test_every_source_names_its_license_at_its_top(repo: Path) -> None:
    license_line = "SPDX-License-Identifier: Apache-2.0"
    files = sources(repo, COMPILED | {".py"})
    assert [path for path, lines in files if not any(license_line in line for line in lines[:2])] == []

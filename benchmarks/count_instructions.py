# SPDX-License-Identifier: Apache-2.0
"""How many instructions do the integer kernels take?  python benchmarks/count_instructions.py OBJECT...

Counted in the machine code, for processors that are not at hand: objects of `src/runtime/kernels/` from any build, with
--objdump of their architecture. A row is an innermost loop that multiplies: the function it is in (the numbers of a
block are bits of a weight, bytes of an activation, tokens and tiles; of `pairs_block` pairs of tokens and quarters of a
tile; a block that has become a part of its caller has that one's name), its instructions for the products of 64 codes
with one byte of an activation each, and how many of a hundred are loads and stores of the stack, where registers did
not suffice.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Products of bytes in one instruction, by its name and the width of its first register.
_PRODUCTS = {
    r"(sdot|usdot) ": 16,
    r"smmla ": 32,
    r"(smull|smlal)2? +v\d+\.8h": 8,
    r"(vpdpbusd|vpmaddubsw) .*%zmm": 64,
    r"({vex} )?(vpdpbusd|vpmaddubsw) .*%ymm": 32,
}
_FUNCTION = re.compile(r"[0-9a-f]+ <(.*)>:$")
_INSTRUCTION = re.compile(r"\s+([0-9a-f]+):\s+(.*)$")
_NAMESPACE = re.compile(r"rkllm::(\(anonymous namespace\)::)?")
_KERNEL = re.compile(r"(integer_block|pairs_block|cover|matmul_w\w+)(<[^>]*>)?")
_JUMP = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z|j\w+)\s+(?:[^<]*[\s,])?([0-9a-f]+) <")
_STACK = re.compile(r"\[sp|\(%r[sb]p\)")
Code = list[tuple[int, str]]  # addresses and instructions


def functions(path: Path, objdump: str) -> Iterator[tuple[str, Code]]:
    """Yield the kernels of an object file."""
    command = [objdump, "--disassemble", "--demangle", "--no-show-raw-insn", str(path)]
    name, code = "", []  # type: tuple[str, Code]
    for line in [*subprocess.check_output(command, text=True).splitlines(), "0 <end>:"]:
        if found := _FUNCTION.match(line):
            if kernel := _KERNEL.search(_NAMESPACE.sub("", name)):
                yield kernel[0], code
            name, code = found[1], []
        elif found := _INSTRUCTION.match(line):
            code.append((int(found[1], 16), re.sub(r"\s+", " ", found[2])))


def innermost_loops(code: Code) -> Iterator[list[str]]:
    """Yield the instructions of each loop that has no other one inside."""
    jumps = [(int(found[1], 16), at) for at, text in code if (found := _JUMP.match(text))]
    loops = {(begin, end) for begin, end in jumps if code[0][0] <= begin <= end}
    for begin, end in sorted(loops):
        if not any(begin <= first and last <= end for first, last in loops - {(begin, end)}):
            yield [text for at, text in code if begin <= at <= end]


def products(loop: list[str]) -> int:
    """Return how many products of bytes a loop computes each time."""
    return sum(count for text in loop for name, count in _PRODUCTS.items() if re.match(name, text))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("objects", type=Path, nargs="+")
    parser.add_argument("--objdump", default="objdump")
    options = parser.parse_args()
    for path in options.objects:
        rows = set()
        for name, code in functions(path, options.objdump):
            for loop in innermost_loops(code):
                if count := products(loop):
                    stack = sum(bool(_STACK.search(text)) for text in loop)
                    rows.add((name, 64 * len(loop) / count, 100 * stack / len(loop)))
        for name, instructions, stack in sorted(rows):
            print(f"{path.name:>16} {name:<30} {instructions:6.2f} {stack:4.0f} %")


if __name__ == "__main__":
    main()

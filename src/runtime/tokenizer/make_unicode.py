# SPDX-License-Identifier: Apache-2.0
"""Write unicode.inc, the character tables of the tokenizers.

    python make_unicode.py > unicode.inc

Needs the character database of Unicode 16.0: Python 3.14, or the package unicodedata2 in version 16.0.0.

The `tokenizers` library, whose ids are to be met, has four character databases inside, of three ages: its regular
expressions and word characters follow Unicode 16.0, its Digits splitter Unicode 17.0, its NFC Unicode 9.0. All were
measured by asking it about every code point (tests/unit/test_tokenizer.py repeats that); what differs from 16.0 is
written out here.
"""

from __future__ import annotations

import sys

try:
    import unicodedata2 as ucd
except ImportError:
    import unicodedata as ucd

# Numeric in 17.0 and not in 16.0.
LATER_DIGITS = [(0x11DE0, 0x11DE9), (0x16FF4, 0x16FF6)]

# Combining marks of 16.0 that 9.0 did not have: of class 0 for the genuine NFC.
LATER_MARKS = [
    (0x7FD, 0x7FD), (0x897, 0x89F), (0x8CA, 0x8D3), (0x9FE, 0x9FE), (0xC3C, 0xC3C), (0xD3B, 0xD3C), (0xEBA, 0xEBA),
    (0x1715, 0x1715), (0x1ABF, 0x1ACE), (0x1DF6, 0x1DFA), (0xA82C, 0xA82C), (0x10D24, 0x10D27), (0x10D69, 0x10D6D),
    (0x10EAB, 0x10EAC), (0x10EFD, 0x10EFF), (0x10F46, 0x10F50), (0x10F82, 0x10F85), (0x11070, 0x11070),
    (0x1133B, 0x1133B), (0x113CE, 0x113D0), (0x1145E, 0x1145E), (0x11839, 0x1183A), (0x1193D, 0x1193E),
    (0x11943, 0x11943), (0x119E0, 0x119E0), (0x11A34, 0x11A34), (0x11A47, 0x11A47), (0x11A99, 0x11A99),
    (0x11D42, 0x11D42), (0x11D44, 0x11D45), (0x11D97, 0x11D97), (0x11F41, 0x11F42), (0x1612F, 0x1612F),
    (0x16FF0, 0x16FF1), (0x1E08F, 0x1E08F), (0x1E130, 0x1E136), (0x1E2AE, 0x1E2AE), (0x1E2EC, 0x1E2EF),
    (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF),
]  # fmt: skip

# Composed characters of 16.0 that 9.0 did not have.
LATER_COMPOSED = [
    (0x105C9, 0x105C9), (0x105E4, 0x105E4), (0x11383, 0x11383), (0x11385, 0x11385), (0x1138E, 0x1138E),
    (0x11391, 0x11391), (0x113C5, 0x113C5), (0x113C7, 0x113C8), (0x11938, 0x11938), (0x16121, 0x16128),
    (0x16D68, 0x16D6A),
]  # fmt: skip

# White_Space, and Other_Alphabetic outside the letters and marks: properties that unicodedata does not have.
WHITE_SPACE = [(0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
               (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)]  # fmt: skip
OTHER_ALPHABETIC = [(0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]

LETTER, NUMBER, SPACE, DIGIT, WORD, RECOMPOSE = 1, 2, 4, 8, 16, 32
BLOCK = 128


def within(code: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def decompositions() -> dict[int, tuple[int, int]]:
    """Return canonical decompositions into two characters (the second 0: into one) as of Unicode 9.0."""
    found = {}
    for code in range(0x110000):
        mapping = ucd.decomposition(chr(code))
        if mapping and not mapping.startswith("<") and not within(code, LATER_COMPOSED):
            parts = [int(part, 16) for part in mapping.split()]
            found[code] = (parts[0], parts[1] if len(parts) == 2 else 0)
    return found


def combining_class(code: int) -> int:
    return 0 if within(code, LATER_MARKS) else ucd.combining(chr(code))


def classify(code: int, seconds: set[int]) -> int:
    category = ucd.category(chr(code))
    value = 0
    if category[0] == "L":
        value |= LETTER
    if category[0] == "N":
        value |= NUMBER
    if within(code, WHITE_SPACE):
        value |= SPACE
    if category[0] == "N" or within(code, LATER_DIGITS):
        value |= DIGIT
    if category[0] in "LM" or category in ("Nd", "Nl", "Pc") or code in (0x200C, 0x200D):
        value |= WORD
    if within(code, OTHER_ALPHABETIC):
        value |= WORD
    surrogate = 0xD800 <= code < 0xE000
    if combining_class(code) or code in seconds or (not surrogate and ucd.normalize("NFC", chr(code)) != chr(code)):
        value |= RECOMPOSE
    return value


def rows(values: list[str]) -> str:
    lines, line = [], " "
    for value in values:
        if len(line) + len(value) + 2 > 120:
            lines.append(line)
            line = " "
        line += f" {value},"
    return "\n".join([*lines, line])


def array(type_name: str, name: str, values: list[str]) -> None:
    print(f"\nconst {type_name} {name}[] = {{\n{rows(values)}\n}};")


def main() -> None:
    if ucd.unidata_version != "16.0.0":
        sys.exit(f"needs the character database of Unicode 16.0.0, this is {ucd.unidata_version}")
    pairs = decompositions()
    # A composition excluded by the standard is one that normalizing does not give back.
    composed = {code: pair for code, pair in pairs.items() if pair[1] and ucd.normalize("NFC", chr(code)) == chr(code)}
    hangul = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    seconds = {pair[1] for pair in composed.values()} | hangul

    index: list[int] = []
    blocks: dict[tuple[int, ...], int] = {}
    for start in range(0, 0x110000, BLOCK):
        block = tuple(classify(code, seconds) for code in range(start, start + BLOCK))
        index.append(blocks.setdefault(block, len(blocks)))
    while index[-1] == index[-2]:
        index.pop()  # every code point beyond is of the last block

    print("// SPDX-License-Identifier: Apache-2.0")
    print("// Generated by make_unicode.py from Unicode 16.0.0; see there for the exceptions. Do not edit.")
    array("uint8_t", "kClassIndex" if len(blocks) < 256 else "TOO_MANY_BLOCKS", [str(i) for i in index])
    array("uint8_t", "kClassBlocks", [str(value) for block in blocks for value in block])
    marks: list[list[int]] = []
    for code in range(0x110000):
        value = combining_class(code)
        if value and marks and marks[-1][1] == code - 1 and marks[-1][2] == value:
            marks[-1][1] = code
        elif value:
            marks.append([code, code, value])
    array("CombiningRange", "kCombining", [f"{{0x{first:X}, 0x{last:X}, {value}}}" for first, last, value in marks])
    array("Decomposition", "kDecompositions", [f"{{0x{c:X}, 0x{a:X}, 0x{b:X}}}" for c, (a, b) in sorted(pairs.items())])
    by_parts = sorted((pair, code) for code, pair in composed.items())
    array("Composition", "kCompositions", [f"{{0x{a:X}, 0x{b:X}, 0x{c:X}}}" for (a, b), c in by_parts])


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Write the seeds of the container fuzzer: `python make_corpus.py DIR`.

Sound files of several shapes, and the hostile ones of the unit tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))

from gguf_bytes import STRING, U32, gguf, key, sample, tensor
from hostile_gguf import ATTACKS

SOUND = {
    "sample": sample(),
    "no-tensors": gguf([key("general.architecture", STRING, "rkllm"), key("rkllm.version", U32, 1)]),
    "nothing": gguf(),
    "version-2": gguf([key("a", U32, 1)], version=2),
    "wide-alignment": gguf([key("general.alignment", U32, 256)], [tensor("t", [4])], bytes(16), alignment=256),
    "many-tensors": gguf([], [tensor(f"t{i}", [8], 0, 32 * i) for i in range(16)], bytes(32 * 16)),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate([*SOUND.values(), *(content for content, _ in ATTACKS.values())]):
        if len(content) <= 8192:
            (folder / f"seed-{number:03}").write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

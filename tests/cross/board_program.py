# SPDX-License-Identifier: Apache-2.0
"""Print what a Python on a board computes: its instruction set, then a line for each model named on the command line.

The same program runs on the machine that builds. It needs the wheel and numpy, and nothing else.
"""

from __future__ import annotations

import sys
from array import array

from rkllm_ext import LLM, _rkllm


def main(paths: list[str]) -> None:
    """Print the instruction set in use; then format, checksum of logits and a few tokens of each model."""
    print(_rkllm.active_isa())
    for path in paths:
        with LLM(path, max_context_len=64, top_k=1, n_threads=2) as llm:
            ids = array("i", [(7919 * i + 13) % llm.info.vocab_size for i in range(40)])
            answer = llm.generate("Once upon a time", max_new_tokens=6, ignore_eos=True)
            print(path, f"{_rkllm.checksum(llm.logits(ids)):016x}", *answer.token_ids)


if __name__ == "__main__":
    main(sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of checkpoints: read from the files of the model's makers, written as keys of a ``.rkllm`` file.

The runtime tokenizes (src/runtime/tokenizer); here the many source forms become the one table it reads. A structure
that is not known is refused, never guessed: a tokenizer that is almost right spoils a model silently.
"""

from __future__ import annotations

from .table import TokenTable, tokenizer_keys

__all__ = ["TokenTable", "tokenizer_keys"]

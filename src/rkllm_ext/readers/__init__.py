# SPDX-License-Identifier: Apache-2.0
"""Read source models: Hugging Face directories and GGUF files, one tensor at a time.

Readers know nothing about model families: names, configuration keys and shapes are those of the source.
"""

from __future__ import annotations

from .adapter import open_adapter
from .checkpoint import Checkpoint
from .locate import open_checkpoint

__all__ = ["Checkpoint", "open_adapter", "open_checkpoint"]

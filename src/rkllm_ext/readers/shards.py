# SPDX-License-Identifier: Apache-2.0
"""The index of a checkpoint in several files: which shard holds which tensor."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelFileError
from .json_file import read_object


def read_shards(index: Path) -> dict[str, str]:
    """Return {tensor: shard file} of an index, all shards present."""
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelFileError(f"{index}: has no 'weight_map' that says which file holds which tensor")
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ModelFileError(f"{index}: tensor '{name}' is placed in {shard!r}, which is not a file name")
        if not (index.parent / shard).is_file():
            raise ModelFileError(f"{index.parent}: shard {shard} with tensor '{name}' is missing; download it again")
    return shards

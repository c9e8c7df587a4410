# SPDX-License-Identifier: Apache-2.0
"""Temporary folders go, whatever happens and whenever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rkllm_ext.folders import temporary_folder


def test_a_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, ".made-") as folder:
        assert folder.name.startswith(".made-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("x")
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path, ".made-") as folder:
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_signal_in_the_moment_in_which_it_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def interrupted(self: Path, *arguments: Any, **named: Any) -> None:
        mkdir(self, *arguments, **named)
        assert self.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path, ".made-"):
        raise AssertionError("the folder was given to somebody")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), temporary_folder(tmp_path / "nowhere", ".made-"):
        raise AssertionError("the folder was given to somebody")

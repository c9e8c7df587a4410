# SPDX-License-Identifier: Apache-2.0
"""Programs that follow their user's locale, under which the C library wants decimal commas."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rkllm_ext

PROGRAM = """
import locale, sys
if len(sys.argv) > 2:
    locale.setlocale(locale.LC_ALL, "")
    assert locale.localeconv()["decimal_point"] == ","
import rkllm_ext
with rkllm_ext.LLM(sys.argv[1], seed=5, temperature=0.8, top_p=0.95, max_new_tokens=20) as llm:
    print(llm.generate("Once upon a time", temperature=1.2, logit_bias={7: -1.5}).token_ids.tolist())
"""


def test_decimal_commas_change_no_number(tiny_llama: Path, tmp_path: Path) -> None:
    if not shutil.which("localedef"):
        pytest.skip("localedef is not here")
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")], capture_output=True, text=True
    )
    if not (tmp_path / "de_DE.UTF-8").exists():
        pytest.skip(f"no German locale can be made: {made.stderr}")
    model = tmp_path / "model.rkllm"
    rkllm_ext.convert(tiny_llama, model, "fp32")

    def answer(*arguments: str, **environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(model), *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert answer("locale", LOCPATH=str(tmp_path), LC_ALL="de_DE.UTF-8") == answer()

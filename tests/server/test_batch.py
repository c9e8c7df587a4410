# SPDX-License-Identifier: Apache-2.0
"""Batches: a file of requests becomes a file of answers, whatever interrupts it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext.cli import main
from rkllm_ext.errors import BusyError, InvalidArgumentError

from .conftest import NEEDED

if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    pytest.skip(f"needs the extra server: {', '.join(missing)}", allow_module_level=True)
from rkllm_ext.server.batch import Answerer, Answers, requests_of


def request(name: str, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    given = {"model": "any", "prompt": f"Once upon a time {name}", "max_tokens": 8, "seed": 1, **body}
    return {"custom_id": name, "method": "POST", "url": url, "body": given}


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row for row in rows}


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["batch", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_every_request_gets_the_answer_of_the_server(tiny_model: Path, tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}], "prompt": None, "max_tokens": 5}
    asked = [request(f"r{i}") for i in range(6)]
    asked.append(request("chat", "/v1/chat/completions", **chat))
    asked[-1]["body"].pop("prompt")
    asked.append({**request("vector", "/v1/embeddings"), "body": {"model": "any", "input": "a text"}})
    out = tmp_path / "out.jsonl"
    assert call(write(tmp_path / "in.jsonl", asked), out, "--model", tiny_model) == 0
    found = read(out)
    assert set(found) == {line["custom_id"] for line in asked}
    assert all(row["response"]["status_code"] == 200 and row["error"] is None for row in found.values())
    assert found["chat"]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert len(found["vector"]["response"]["body"]["data"][0]["embedding"]) == 64
    with Answerer({"any": str(tiny_model)}, parallel=1) as alone:
        again = alone.answer(asked[3])
    assert again["response"]["body"]["choices"] == found["r3"]["response"]["body"]["choices"]


def test_pipes_and_devices_are_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = write(tmp_path / "in.jsonl", [request("r")])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments in ((asked, pipe), (pipe, tmp_path / "out.jsonl"), (asked, "/dev/null")):
        assert call(*arguments, "--model", tiny_model) == 1
        assert "is not a regular file; a batch that can be resumed needs one" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_request_that_fails_is_an_answer_and_the_others_go_on(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [request("good"), request("bad", temperature=7)]
    out = tmp_path / "out.jsonl"
    assert call(write(tmp_path / "in.jsonl", asked), out, "--model", tiny_model) == 1
    found = read(out)
    assert found["good"]["response"]["status_code"] == 200
    assert found["bad"]["response"]["status_code"] == 400
    assert found["bad"]["response"]["body"]["error"]["param"] == "temperature"
    assert "1 answered, 1 failed, 0 were there already" in capsys.readouterr().err


def test_requests_may_name_their_models(tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.rkllm"
    other.symlink_to(tiny_model)
    asked = [request("a", model=str(tiny_model)), request("b", model=str(other))]
    out = tmp_path / "out.jsonl"
    assert call(write(tmp_path / "in.jsonl", asked), out) == 0
    assert {row["response"]["body"]["model"] for row in read(out).values()} == {str(tiny_model), str(other)}


def test_a_model_that_is_no_file_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(write(tmp_path / "in.jsonl", [request("a", model="gpt")]), tmp_path / "out.jsonl") == 1
    assert "the model 'gpt' is no file; name one that answers with --model" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2: is not JSON"),
        ([1], "line 2: is not a request"),
        ({**request("b"), "method": "GET"}, "the method is 'GET'"),
        (request("b", "/v1/other"), "the url is '/v1/other'"),
        (request("b", stream=True), "stream is not possible"),
        (request("a"), "the custom_id 'a' was there before"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number(tmp_path: Path, line: Any, sentence: str) -> None:
    path = write(tmp_path / "in.jsonl", [request("a")])
    with path.open("a") as file:
        file.write(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(InvalidArgumentError, match=r"in\.jsonl: line 2: ") as error:
        list(requests_of(path))
    assert sentence in str(error.value)


def test_what_is_answered_is_skipped_and_half_a_line_is_cut_off(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = write(tmp_path / "in.jsonl", [request(f"r{i}") for i in range(4)])
    out = tmp_path / "out.jsonl"
    assert call(asked, out, "--model", tiny_model) == 0
    whole = read(out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:25])
    assert call(asked, out, "--model", tiny_model) == 0
    assert out.read_bytes().startswith(b"".join(lines[:2]))
    assert "2 answered, 0 failed, 2 were there already" in capsys.readouterr().err
    texts = {name: row["response"]["body"]["choices"] for name, row in whole.items()}
    assert {name: row["response"]["body"]["choices"] for name, row in read(out).items()} == texts


def test_a_killed_batch_goes_on_where_it_was(tiny_model: Path, tmp_path: Path) -> None:
    asked = write(tmp_path / "in.jsonl", [request(f"r{i}", max_tokens=400, ignore_eos=True) for i in range(40)])
    out = tmp_path / "out.jsonl"
    program = "from rkllm_ext.cli import main; main()"
    script = [sys.executable, "-c", program, "batch", str(asked), str(out), "--model", str(tiny_model)]
    killed = subprocess.Popen(script, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = out.read_bytes().rpartition(b"\n")[0]
    assert kept
    ran = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert out.read_bytes().startswith(kept)
    assert len(read(out)) == 40


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with Answers(tmp_path / "out.jsonl"), pytest.raises(BusyError, match="another process writes it"):
        Answers(tmp_path / "out.jsonl")


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "out.jsonl", [request("a")])
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError, match="line 1 is no answer of a batch"):
        Answers(path)
    assert path.read_bytes() == before
    assert os.path.getsize(path)

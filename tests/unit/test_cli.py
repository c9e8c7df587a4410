# SPDX-License-Identifier: Apache-2.0
"""The command line: help everywhere, one-line errors, answers, conversations that survive Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from adapters import random_pairs, write_peft

from rkllm_ext import LLM, cli, convert
from rkllm_ext.cli import main
from rkllm_ext.cli.talk import Talk
from rkllm_ext.errors import ContextFullError, InvalidArgumentError

COMMANDS = ["batch", "bench", "convert", "demo", "deploy", "doctor", "eval", "inspect", "run", "serve", "ui"]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tiny.rkllm"
    convert(tiny_llama, path, "w8a8")
    return path


# ---- help, version, errors ----


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert "options" not in out.lower().split("commands:")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert call(name, "--help") == 0
    assert f"Usage: rkllm-ext {name}" in capsys.readouterr().out


def test_help_does_not_load_what_it_does_not_need() -> None:
    script = "import sys; from rkllm_ext.cli import commands; commands.main(['--help'], standalone_mode=False); "
    script += "print(sorted({'numpy', 'gguf', 'jinja2', 'tqdm', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["convert", "only-one"],
        ["convert", "a", "b", "--report", "r.txt"],
        ["run"],
        ["run", "m", "p", "--temp", "x"],
        ["bench", "m", "-t", "1,0"],
    ],
)
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert call(*arguments) == 2
    assert "Usage:" in capsys.readouterr().err


def test_a_format_that_does_not_exist_is_wrong_usage_and_lists_those_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("convert", "a", "b", "--dtype", "w3a16") == 2
    assert "'w3a16' is not one of fp32, fp16, w8a8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["convert", "{tmp}/none", "{tmp}/m.rkllm"], "none: there is no such file or folder"),
        (["convert", "{tiny}", "{tmp}"], "is a folder; name a file to write"),
        (["convert", "{tiny}", "{tmp}/no/m.rkllm"], "does not exist; make it first"),
        (["convert", "{tiny}", "{tmp}/m.rkllm", "--dtype", "w8a8_g512"], "no multiple of the group 512"),
        (["convert", "{tiny}", "{tmp}/m.rkllm", "--platform", "rk3588"], "rk3588 does not run w4a16_g32"),
        (["convert", "{tiny}", "{tmp}/m.rkllm", "--algorithm", "x"], "the algorithm 'x' does not exist"),
        (["inspect", "{tmp}/none.rkllm"], "none.rkllm"),
        (["inspect", "{tmp}"], "{tmp}"),
        (["run", "{tmp}/none.rkllm", "hello"], "none.rkllm"),
        (["run", "{tmp}", "hello"], "{tmp}"),
        (["demo", "--model", "{tmp}/none", "hello"], "none: there is no such file or folder"),
        (["demo", "--model", "", "hello"], "'': there is no such file or folder"),
        (["demo", "--model", "{model}", "hello"], "is a converted model already, for 'rkllm-ext run'"),
        (["run", "{model}", "hello", "--context", "1"], "max_context_len is 1; shorten the prompt"),
        (["run", "{model}", "hello", "--chat-template", "{model}"], "tiny.rkllm: is not UTF-8 at byte"),
        (["run", "{model}", "hello", "--chat-template", "{tmp}/none"], "none: No such file or directory"),
        (["eval", "{model}", "--text", "{model}"], "tiny.rkllm: is not UTF-8 at byte"),
        (["eval", "{model}", "--text", "{empty}"], "empty.txt: has 0 tokens; a text of 2 or more is needed"),
        (["bench", "{model}", "-p", "600"], "600 tokens to read and 128 to write are more than the 512"),
        (["convert", "{tiny}", "{tmp}/m.rkllm", "--report", "{tmp}/no/r.html"], "does not exist; make it first"),
        (
            ["convert", "{tiny}", "{tmp}/m.rkllm", "--report", "{tmp}/r.json", "--report-text", "{empty}"],
            "empty.txt: is empty; a text is needed",
        ),
        (
            ["deploy", "--host", "u@h", "--workshop", "/w", "--platform", "cpu", "--model-path", "none.rkllm"],
            "none.rkllm: no such file here, and no absolute path of a file on the board",
        ),
    ],
)
def test_a_failure_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str],
    tiny_llama: Path,
    model: Path,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"")
    names = {"{tmp}": tmp_path, "{tiny}": tiny_llama, "{model}": model, "{empty}": empty}

    def filled(text: str) -> str:
        for name, path in names.items():
            text = text.replace(name, str(path))
        return text

    assert call(*map(filled, arguments)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rkllm-ext: ")
    assert filled(sentence) in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_whether_a_file_can_be_read_is_for_who_opens_it_to_say(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # else click would call a file without permission wrong usage, with status 2
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    assert call("inspect", str(model)) == 0
    assert call("run", str(model), "hello", "--tokens", "2") == 0
    assert capsys.readouterr().err.startswith("[load ")


def test_ctrl_c_is_status_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_llama: Path, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rkllm_ext.sources.locate", interrupted)
    assert call("convert", str(tiny_llama), str(tmp_path / "m.rkllm")) == 130
    assert capsys.readouterr().err.endswith("\nrkllm-ext: stopped\n")


# ---- convert and inspect ----


def test_convert_says_what_it_made(capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.rkllm"
    assert call("convert", str(tiny_llama), str(out), "--dtype", "w8a8", "--head-dtype", "w8a16_g32") == 0
    said, err = capsys.readouterr()
    assert said.startswith(f"{out}: w8a8, 0.1 M parameters, ")
    assert err == ""
    assert out.is_file()


def test_inspect_prints_the_facts(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    assert call("inspect", str(model)) == 0
    out = capsys.readouterr().out
    assert "w8a8" in out
    assert "spec.n_layers             2" in out
    assert "template                  yes" in out


def test_inspect_json_adds_up(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    assert call("inspect", "--json", str(model)) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["spec"]["dim"] == 64
    assert facts["format"] == "w8a8"
    assert facts["end_tokens"] == [2]
    assert facts["vocabulary"] == 300
    assert facts["file_bytes"] == model.stat().st_size
    groups = {group["name"]: group for group in facts["tensors"]}
    assert groups["blk.*.attn_q.weight"] == {
        "name": "blk.*.attn_q.weight",
        "format": "w8a8",
        "shape": [64, 64],
        "count": 2,
        "bytes": 2 * (64 * 64 + 64 * 4),
    }
    assert sum(group["count"] for group in facts["tensors"]) == 1 + 1 + 2 * 9 + 1 + 1


def test_an_adapter_is_converted_beside_its_model_and_answers(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path
) -> None:
    pairs = random_pairs({"model.layers.0.self_attn.q_proj": (64, 64), "lm_head": (300, 64)}, rank=4, size=0.5)
    out, adapter = tmp_path / "m.rkllm", write_peft(tmp_path / "peft", pairs)
    assert call("convert", str(tiny_llama), str(out), "--dtype", "w8a8", "--lora", str(adapter)) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'm_lora.rkllm'}: LoRA, fp16, 2 layers, rank 4, " in said
    assert call("inspect", str(tmp_path / "m_lora.rkllm")) == 0
    said = capsys.readouterr().out
    assert "type                      adapter" in said
    assert "blk.*.attn_q.lora_a                1  fp16        4 x 64" in said
    answers = []
    for options in ([], ["--lora", f"it={tmp_path / 'm_lora.rkllm'}"], ["--lora-scale", "0"]):
        more = ["--lora", str(tmp_path / "m_lora.rkllm"), *options] if options[:1] == ["--lora-scale"] else options
        assert call("run", str(out), "Hello", "--raw", "--temp", "0", "--tokens", "8", *more) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] != answers[1] and answers[0] == answers[2]


def test_an_adapter_that_does_not_fit_stops_the_conversion_of_its_model(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path
) -> None:
    adapter = write_peft(tmp_path / "peft", random_pairs({"model.layers.9.self_attn.q_proj": (64, 64)}, rank=4))
    assert call("convert", str(tiny_llama), str(tmp_path / "m.rkllm"), "--lora", str(adapter)) == 1
    assert "it has layers 0 to 1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


def test_inspect_refuses_other_gguf_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from gguf_bytes import STRING, gguf, key

    (tmp_path / "m.gguf").write_bytes(gguf([key("general.architecture", STRING, "llama")]))
    assert call("inspect", str(tmp_path / "m.gguf")) == 1
    assert "is a GGUF file of architecture 'llama'; rkllm-ext convert makes a .rkllm of it" in capsys.readouterr().err


def test_inspect_describes_prompt_caches(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache.bin"
    with LLM(model) as llm:
        llm.save_prompt_cache(np.array([5, 6, 7], dtype=np.int32), path)
    assert call("inspect", "--json", str(path)) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["type"], facts["tokens"]) == ("prompt_cache", [5, 6, 7])
    assert (facts["format"], facts["kv_type"], facts["layers"], facts["logits"]) == ("w8a8", "f16", 2, True)
    assert facts["activations"] == "auto"
    assert facts["adapter"] == ""
    assert call("inspect", str(path)) == 0
    assert "positions                 3, of these 0 embeddings\n" in capsys.readouterr().out


# ---- run ----


def test_run_saves_a_prompt_cache_and_begins_with_it(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    arguments = [
        "run",
        str(model),
        "hello",
        "--tokens",
        "3",
        "--temp",
        "0",
        "--prompt-cache",
        str(tmp_path / "cache.bin"),
    ]
    said = []
    for _ in range(2):
        assert call(*arguments) == 0
        said.append(capsys.readouterr())
    assert said[0].out == said[1].out
    assert "prefill 1 tokens" not in said[0].err
    assert "prefill 1 tokens" in said[1].err
    assert [path.name for path in tmp_path.iterdir()] == ["cache.bin"]
    assert call("run", str(model), "hello", "--prompt-cache", str(model)) == 1
    assert "is of the type 'model', not 'prompt_cache'" in capsys.readouterr().err


def test_run_answers_on_stdout_and_puts_the_figures_on_stderr(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    arguments = ["run", str(model), "hello", "--tokens", "5", "--temp", "0"]
    assert call(*arguments) == 0
    first = capsys.readouterr()
    assert call(*arguments) == 0
    assert capsys.readouterr().out == first.out
    for words in ("load ", "prefill ", "decode ", "tokens/s", "peak memory", "file 0.1 MB, w8a8"):
        assert words in first.err


def test_the_chat_template_is_used_unless_raw_is_asked_for(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    figures = []
    for mode in ([], ["--chat"], ["--raw"]):
        assert call("run", str(model), "hello", "--tokens", "2", *mode) == 0
        figures.append(capsys.readouterr().err.split("prefill ")[1].split(" tokens")[0])
    assert figures[0] == figures[1]
    assert int(figures[2]) < int(figures[0])


def test_python_m_is_the_command_line() -> None:
    command = [sys.executable, "-m", "rkllm_ext", "inspect", "nothing.rkllm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:10]) == (1, "rkllm-ext:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_conversion_that_is_told_to_end_leaves_nothing(tiny_llama: Path, tmp_path: Path, number: int) -> None:
    code = "from rkllm_ext.cli import main; main()"
    command = [sys.executable, "-c", code, "convert", str(tiny_llama), str(tmp_path / "m.rkllm"), "--opt", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not list(tmp_path.iterdir()):
            time.sleep(0.01)
        running.send_signal(number)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 128 + number, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_comes_while_python_drops_exceptions_ends_a_command(number: int) -> None:
    code = f"""
import os, time, weakref
from rkllm_ext import cli
class Thing: pass
def told(_):
    os.kill(os.getpid(), {int(number)})
    time.sleep(0.01)
def command(*_, **__):
    thing = Thing()
    reference = weakref.ref(thing, told)
    del thing
    time.sleep(60)
cli.commands.main = command
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["", ">&-", "<&-", "2>&-", ">/dev/full"])
def test_any_streams_will_do(model: Path, redirection: str) -> None:
    # An answer of this model has characters that ASCII lacks.
    code = "from rkllm_ext.cli import main; main()"
    command = f'"$0" -c "{code}" run "$1" grüße --seed 3 --tokens 30 {redirection}'
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, model], capture_output=True, text=True, env=environment, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (redirection == ">/dev/full")
    if done.returncode:
        assert done.stderr.splitlines()[-1] == "rkllm-ext: No space left on device"
    else:
        assert ("?" in done.stdout) == (redirection != ">&-")


def test_lines_of_a_pipe_are_answered_one_by_one(model: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from rkllm_ext.cli import main; main()",
            "run",
            str(model),
            "--tokens",
            "3",
            "--seed",
            "1",
        ],
        input="one\n\ntwo\n/exit\nthree\n",
        capture_output=True,
        text=True,
        check=True,
    )
    # Two answers of three tokens. The first token of an answer comes out of the prefill: two are decoded.
    assert "decode 4 tokens" in done.stderr
    assert "> " not in done.stdout


def test_demo_converts_once_and_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_llama: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("RKLLM_EXT_CACHE", str(tmp_path))
    for _ in range(2):
        assert call("demo", "hello", "--model", str(tiny_llama), "--dtype", "w4a16_g64", "--tokens", "4") == 0
        assert "w4a16_g64" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("*.rkllm"))) == 1


# ---- conversations ----


class FakeStream:
    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = iter(pieces)
        self.closed = False

    def __iter__(self) -> Iterator[Any]:
        for piece in self._pieces:
            if not isinstance(piece, str):
                raise piece
            yield SimpleNamespace(text=piece)

    def close(self) -> None:
        self.closed = True


class FakeModel:
    """A model that answers from a list; exceptions in it are raised when their turn comes."""

    perf = None

    def __init__(self, *answers: list[Any]) -> None:
        self.answers = list(answers)
        self.prompts: list[Any] = []
        self.streams: list[FakeStream] = []

    def stream(self, x: Any) -> FakeStream:
        self.prompts.append([dict(turn) for turn in x] if isinstance(x, list) else x)
        self.streams.append(FakeStream(self.answers.pop(0)))
        return self.streams[-1]

    chat_stream = stream


def talk(model: FakeModel, lines: list[Any], chat: bool = True) -> None:
    waiting = iter(lines)

    def read() -> str:
        line = next(waiting, EOFError())
        if isinstance(line, str):
            return line
        raise line

    Talk(model, chat).forever(read)  # type: ignore[arg-type]
    assert all(stream.closed for stream in model.streams)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def test_a_conversation_keeps_its_history(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeModel(["A", "1"], ["A2"])
    talk(model, ["Q1\n", "  ", "Q2"])
    assert model.prompts == [turns("Q1"), turns("Q1", "A1", "Q2")]
    assert capsys.readouterr().out == "A1\nA2\n"


def test_new_begins_a_new_conversation() -> None:
    model = FakeModel(["A1"], ["A2"])
    talk(model, ["Q1", "/new", "Q2"])
    assert model.prompts == [turns("Q1"), turns("Q2")]


def test_raw_lines_are_prompts_of_their_own() -> None:
    model = FakeModel(["A1"], ["A2"])
    talk(model, ["Q1", "Q2"], chat=False)
    assert model.prompts == ["Q1", "Q2"]


def test_ctrl_c_stops_an_answer_and_not_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeModel(["A", KeyboardInterrupt()], ["A2"])
    talk(model, ["Q1", "Q2"])
    assert model.prompts[1] == turns("Q1", "A", "Q2")
    assert capsys.readouterr().out == "A (stopped)\nA2\n"


def test_a_second_ctrl_c_leaves() -> None:
    model = FakeModel(["A", KeyboardInterrupt()], ["never"])
    talk(model, ["Q1", KeyboardInterrupt(), "Q2"])
    assert len(model.prompts) == 1


def test_one_ctrl_c_at_the_prompt_does_not_leave() -> None:
    model = FakeModel(["A1"], ["A2"])
    talk(model, [KeyboardInterrupt(), "Q1", KeyboardInterrupt(), "Q2", KeyboardInterrupt(), KeyboardInterrupt(), "Q3"])
    assert len(model.prompts) == 2


@pytest.mark.parametrize("word", ["/exit", "/quit"])
def test_exit_leaves(word: str) -> None:
    model = FakeModel()
    talk(model, [word, "Q1"])
    assert model.prompts == []


def test_a_full_context_forgets_the_oldest_turn() -> None:
    model = FakeModel(["A1"], ["A2"], [ContextFullError("full")], ["A3"])
    talk(model, ["Q1", "Q2", "Q3"])
    assert model.prompts[2:] == [turns("Q1", "A1", "Q2", "A2", "Q3"), turns("Q2", "A2", "Q3")]


@pytest.mark.parametrize("failure", [ContextFullError("too long"), InvalidArgumentError("refused")])
def test_a_failure_is_told_and_the_conversation_goes_on(capsys: pytest.CaptureFixture[str], failure: Exception) -> None:
    model = FakeModel([failure], ["A2"])
    talk(model, ["Q1", "Q2"])
    assert model.prompts == [turns("Q1"), turns("Q2")]
    assert str(failure) in capsys.readouterr().err


def test_commands_are_found_without_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.commands.list_commands(None) == COMMANDS  # type: ignore[arg-type]

# SPDX-License-Identifier: Apache-2.0
"""What a conversion will be, and what it was: estimates, reports, and the command's options for them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType
from gguf_models import write_gguf

from rkllm_ext import LLM, convert
from rkllm_ext.cli import main
from rkllm_ext.errors import InvalidArgumentError, ModelFileError
from rkllm_ext.estimate import estimate
from rkllm_ext.evaluate import divergence
from rkllm_ext.quant.formats import formats, offered_names
from rkllm_ext.quant.recipe import Recipe
from rkllm_ext.report import write_report


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["convert", *arguments])
    return int(caught.value.code or 0)


# ---- estimates ----


FITTING = [name for name in offered_names() if formats()[name].group in (0, 32, 64)]


@pytest.mark.parametrize(("dtype", "level"), [*((name, 0) for name in FITTING), ("w8a8", 1), ("fp16", 1)])
def test_the_estimated_size_is_that_of_the_file(tiny_llama: Path, tmp_path: Path, dtype: str, level: int) -> None:
    found = estimate(tiny_llama, Recipe(dtype, optimization_level=level), platform="cpu")
    report = convert(tiny_llama, tmp_path / "m.rkllm", dtype, optimization_level=level)
    assert found.file_bytes == report.file_bytes
    assert sum(kind.count for kind in found.kinds) == report.n_tensors
    assert sum(kind.n_bytes for kind in found.kinds) == sum(row["bytes"] for row in report.tensors)
    assert {kind.format for kind in found.kinds} == {row["format"] for row in report.tensors}


def test_the_estimate_of_a_gguf_file_names_its_types(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "m.gguf", GGMLQuantizationType.Q8_0)
    found = estimate(tmp_path / "m.gguf", Recipe("w8a8"))
    assert found.source.dtypes == ("Q8_0",)
    assert found.source.kind == "gguf"
    kinds = {kind.name: kind for kind in found.kinds}
    assert (kinds["blk.*.ffn_up.weight"].count, kinds["blk.*.ffn_up.weight"].format) == (2, "w8a8")
    # the largest tensor: its float32 numbers, as much again in between, and the packed ones
    packed = max(kind.rows * kind.cols * 8 + kind.n_bytes // kind.count for kind in kinds.values())
    waiting = 2 * max(kind.n_bytes // kind.count for kind in kinds.values())
    assert packed <= found.peak_bytes <= packed + waiting


def test_a_hybrid_model_is_estimated_by_its_share_of_layers(tiny_llama: Path, tmp_path: Path) -> None:
    found = estimate(tiny_llama, Recipe("w4a16", hybrid_rate=0.5))
    report = convert(tiny_llama, tmp_path / "m.rkllm", "w4a16", hybrid_rate=0.5)
    share = [row["format"] for row in report.tensors].count("w4a16_g32") / (2 * 7)
    assert share == 0.5
    assert found.file_bytes == pytest.approx(report.file_bytes, rel=0.05)


def test_an_estimate_refuses_what_a_conversion_refuses(tiny_llama: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="rk3588 does not run w4a16"):
        estimate(tiny_llama, Recipe("w4a16"), platform="rk3588")
    with pytest.raises(InvalidArgumentError, match="no multiple of the group 128"):
        estimate(tiny_llama, Recipe("w4a16_g128"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.rkllm"
    assert call(str(tiny_llama), str(out), "--dtype", "w8a8", "--platform", "rk3588", "--dry-run") == 0
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert "family llama, 2 layers" in said
    report = convert(tiny_llama, out, "w8a8", platform="rk3588")
    assert f"w8a8 for rk3588: {report.file_bytes:,} bytes, " in said
    assert re.search(r"^blk\.\*\.ffn_up\.weight +2  w8a8 +128 x 64 +", said, re.MULTILINE)
    assert re.search(r"^output_norm\.weight +1  plain +64 +256$", said, re.MULTILINE)


# ---- reports ----


class Page(HTMLParser):
    """The text of a page's cells, and the tags that are open at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("td", "th"):
            self.cells.append(data)


def test_the_json_report_holds_everything(tiny_llama: Path, tmp_path: Path) -> None:
    report = convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32", measure=True)
    write_report(tmp_path / "r.json", report, {"perplexity": 5.5})
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["tensors"] == report.tensors
    assert facts["path"] == str(tmp_path / "m.rkllm")
    assert facts["recipe"]["quantized_dtype"] == "w4a16_g32"
    assert facts["recipe"]["algorithm"] == "normal"
    assert facts["evaluation"] == {"perplexity": 5.5}
    write_report(tmp_path / "r.json", report)
    assert json.loads((tmp_path / "r.json").read_text())["evaluation"] is None


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    report = convert(tiny_llama, tmp_path / "m.rkllm", "w8a8")
    page = tmp_path / "r.html"
    page.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelFileError, match=r"r\.html: cannot be written: No space left on device; nothing"):
        write_report(page, report)
    assert page.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.rkllm", "r.html"]


def test_the_page_has_a_row_for_each_tensor_and_a_plot_of_their_errors(tiny_llama: Path, tmp_path: Path) -> None:
    report = convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32", measure=True)
    report.tensors[3]["method"] = "clip & <round>"  # algorithms add columns of their own
    write_report(tmp_path / "r.html", report, {"perplexity": 5.5})
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    page = Page(text)
    assert {"sqnr_db", "method", "clip & <round>", "perplexity", "5.5", "w4a16_g32"} <= set(page.cells)
    assert {row["name"] for row in report.tensors} <= set(page.cells)
    svg = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    space = "{http://www.w3.org/2000/svg}"
    lines = svg.findall(f"{space}polyline")
    kinds = {row["name"].split(".", 2)[2] for row in report.tensors if row["name"].startswith("blk") and row["format"]}
    assert len(lines) == len(kinds) == 7
    assert [len(line.attrib["points"].split()) for line in lines] == [2] * 7
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 860
            assert 0 <= y <= 320
    labels = {text.text for text in svg.findall(f"{space}text")}
    assert {"attn_q", "ffn_down", "layer"} <= labels
    # a better signal is higher up
    rows = {row["name"]: row["sqnr_db"] for row in report.tensors if row.get("sqnr_db")}
    heights = {}
    names = [name for name in rows if name.startswith("blk.0.")]
    for line, name in zip(lines, names):
        heights[name] = float(line.attrib["points"].split()[0].split(",")[1])
    best, worst = max(names, key=rows.__getitem__), min(names, key=rows.__getitem__)
    assert heights[best] < heights[worst]


def test_a_page_without_measurements_has_no_plot(tiny_llama: Path, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", convert(tiny_llama, tmp_path / "m.rkllm", "fp32"))
    assert "<svg" not in (tmp_path / "r.html").read_text()


def test_the_command_writes_reports_with_the_loss_on_a_text(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The river carried the leaves past the mill, and past the mill. " * 9)
    names = [str(tmp_path / name) for name in ("r.json", "r.html")]
    out = tmp_path / "m.rkllm"
    arguments = ["--dtype", "w4a16", "--report", names[0], "--report", names[1], "--report-text", str(text)]
    assert call(str(tiny_llama), str(out), *arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.rkllm", "r.html", "r.json", "text.txt"]
    facts = json.loads(Path(names[0]).read_text())
    convert(tiny_llama, tmp_path / "fp16.rkllm", "fp16")
    with LLM(out) as llm, LLM(tmp_path / "fp16.rkllm") as reference:
        ids = llm.tokenize(text.read_text())
        expected = divergence(llm, reference, ids, 512)
    assert facts["evaluation"]["perplexity"] == expected.model.value
    assert facts["evaluation"]["perplexity_against"] == expected.reference.value
    assert facts["evaluation"]["kl_mean"] == expected.kl_mean > 0
    assert "kl_mean" in Path(names[1]).read_text()


def test_a_text_without_a_report_is_wrong_usage(tiny_llama: Path, tmp_path: Path) -> None:
    assert call(str(tiny_llama), str(tmp_path / "m.rkllm"), "--report-text", "x") == 2

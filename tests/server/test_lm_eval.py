# SPDX-License-Identifier: Apache-2.0
"""lm-eval through the server finds what our own evaluation finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rkllm_ext import LLM
from rkllm_ext.evaluate import perplexity

from .conftest import Running

TEXTS = ["Once upon a time there was a robot", "The three robots went home", "A house by the sea and two boats"]


@pytest.mark.slow
def test_lm_eval_gives_the_scores_of_our_own_evaluation(
    server: Running, tiny_model: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval[api] and transformers")
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    rows = tmp_path / "texts.jsonl"
    expected = []
    with LLM(tiny_model) as llm, rows.open("w") as file:
        for text in TEXTS:
            ids = llm.tokenize(text)
            begin = llm.detokenize(ids[:1])
            file.write(json.dumps({"begin": begin, "rest": text[len(begin) :]}) + "\n")
            found = perplexity(llm, ids)
            expected.append(-found.loss * found.n_predicted)
    task = {
        "task": "texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{begin}}",
        "doc_to_target": "{{rest}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    }
    arguments = f"model={server.name},base_url={server.url}/v1/completions,tokenizer={tiny_llama},num_concurrent=1"
    result = lm_eval.simple_evaluate(
        model="local-completions", model_args=arguments, tasks=[task], bootstrap_iters=0, log_samples=True
    )
    samples = sorted(result["samples"]["texts"], key=lambda sample: sample["doc_id"])
    found_sums = [sample["filtered_resps"][0][0] for sample in samples]
    assert found_sums == pytest.approx(expected, rel=1e-5)

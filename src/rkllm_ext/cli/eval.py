# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext eval``"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import click

from .options import FILE, activations_option, read_text


@click.command("eval", short_help="Measure how well a .rkllm file predicts a text.")
@click.argument("model", type=FILE)
@click.option("--text", required=True, type=FILE, help="UTF-8 text to predict.")
@click.option("--against", type=FILE, help="A .rkllm file, usually fp16, to measure the distance from.")
@click.option(
    "--context", type=click.IntRange(2), help="Tokens of a window; none overlap. Default: 512, or the model's."
)
@click.option("--tokens", type=click.IntRange(2), help="Use the first tokens of the text only.")
@activations_option
@click.option("--threads", "n_threads", type=click.IntRange(1, 256), help="Default: the machine's cores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    text: str,
    against: str | None,
    context: int | None,
    tokens: int | None,
    n_threads: int | None,
    activations: str | None,
    as_json: bool,
) -> None:
    """Print the perplexity of the .rkllm file MODEL on a text; with --against, its distance from another model."""
    facts = evaluated(model, text, against, context, tokens, n_threads, activations)
    click.echo(json.dumps(facts, indent=2) if as_json else _text(facts))


def evaluated(
    model: str,
    text: str,
    against: str | None,
    context: int | None,
    tokens: int | None,
    n_threads: int | None,
    activations: str | None = None,
) -> dict[str, Any]:
    """Return the figures, ready for JSON. The reference always has the activations of its format."""
    from dataclasses import asdict

    from ..errors import InvalidArgumentError
    from ..evaluate import divergence, perplexity
    from ..library import need_own
    from ..llm import LLM

    need_own("perplexity, which wants the tokens of a text and their probabilities,")
    settings: dict[str, Any] = {"max_context_len": context, "n_threads": n_threads}
    with contextlib.ExitStack() as stack:
        llm = stack.enter_context(LLM(model, activations=activations, **settings))
        context = context or min(512, llm.info.max_context_len)
        ids = llm.tokenize(read_text(text), parse_special=False)[:tokens]
        if len(ids) < 2:
            raise InvalidArgumentError(f"{text}: has {len(ids)} tokens; a text of 2 or more is needed to predict any")
        facts = {"model": model, "text": text, "context": context, "n_tokens": len(ids)}
        if against is None:
            found = perplexity(llm, ids, context, progress=True)
            return {**facts, "perplexity": found.value, "n_predicted": found.n_predicted}
        reference = stack.enter_context(LLM(against, **settings))
        distance = asdict(divergence(llm, reference, ids, context, progress=True))
        ours, theirs = distance.pop("model"), distance.pop("reference")
        values = {"perplexity": ours["value"], "n_predicted": ours["n_predicted"], "against": against}
        return {**facts, **values, "perplexity_against": theirs["value"], **distance}


def _text(facts: dict[str, Any]) -> str:
    lines = [
        f"{facts['model']}: perplexity {facts['perplexity']:.4f} on {facts['n_predicted']} predicted tokens of "
        f"{facts['text']}, windows of {facts['context']}"
    ]
    if "against" in facts:
        lines += [
            f"{facts['against']}: perplexity {facts['perplexity_against']:.4f}",
            f"KL divergence: mean {facts['kl_mean']:.6f}, median {facts['kl_median']:.6f}, "
            f"99th percentile {facts['kl_p99']:.6f} nats",
            f"same likeliest token: {100 * facts['top1_agreement']:.2f} %",
        ]
    return "\n".join(lines)

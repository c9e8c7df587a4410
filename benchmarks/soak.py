# SPDX-License-Identifier: Apache-2.0
"""Does a long-running program stay as it is?  python benchmarks/soak.py [--runs 2000] [--model M.rkllm --lora L.rkllm]

Short runs of every kind in random order: texts, tokens, embeddings, images; aborted by leaving a stream or from another
thread; sessions that step, fork and truncate; adapters and prompt caches that come and go; models opened beside the
first one. Each answer is held against one that was given at the beginning. The table shows resident memory, threads and
open files; all three must stay flat after the first fifth. Without a model, the small random one of the tests is used.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rkllm_ext
from rkllm_ext import LLM, Generation, Multimodal

REPO = Path(__file__).resolve().parent.parent
TOKENS = 12
SAMPLING = {"max_new_tokens": TOKENS, "ignore_eos": True, "temperature": 1.1}
GREEDY = {"max_new_tokens": TOKENS, "ignore_eos": True, "top_k": 1, "repeat_penalty": 1.0}
MOST_GROWTH_MB = 4.0  # of resident memory behind the first fifth: what allocators keep


@dataclass(frozen=True)
class Usage:
    """What the process holds."""

    runs: int
    resident_mb: float
    threads: int
    files: int


def usage(runs: int) -> Usage:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Usage(runs, resident, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))


class Soak:
    """One model with everything that is done to it. Each action returns whether its answers were the known ones."""

    def __init__(self, model: Path, lora: Path, folder: Path, seed: int) -> None:
        self.model, self.lora, self.folder = model, lora, folder
        self.draw = random.Random(seed)
        self.llm = LLM(model, max_context_len=256)
        numbers = np.random.default_rng(seed)
        dim, vocab = self.llm.info.dim, self.llm.info.vocab_size
        self.ids = numbers.integers(0, vocab, 20).astype(np.int32)
        embeddings = (numbers.standard_normal((9, dim)) * 0.1).astype(np.float32)
        self.inputs = {
            "text": "Once upon a time",
            "tokens": self.ids,
            "embeddings": embeddings,
            "image": Multimodal("see <image> here", embeddings[:5]),
        }
        self.known = {(name, seed): self.answer(name, seed) for name in self.inputs for seed in range(3)}
        self.greedy = self.llm.generate(self.ids, **GREEDY).token_ids
        self.llm.load_lora(lora, "a")
        self.adapted = self.llm.generate(self.ids, lora="a", **GREEDY).token_ids
        self.llm.release_lora("a")
        self.actions: dict[str, Callable[[], bool]] = {
            "answer": self.answered,
            "left stream": self.left_stream,
            "abort": self.aborted,
            "session": self.stepped,
            "batch": self.stepped_together,
            "adapter": self.with_adapter,
            "second model": self.second_model,
            "logits": self.logits,
            "prompt cache": self.with_cache,
        }

    def answer(self, name: str, seed: int) -> Generation:
        return self.llm.generate(self.inputs[name], seed=seed, **SAMPLING)

    def some_case(self) -> tuple[str, int]:
        return self.draw.choice(list(self.inputs)), self.draw.randrange(3)

    def answered(self) -> bool:
        case = self.some_case()
        answer, known = self.answer(*case), self.known[case]
        return (answer.text, list(answer.token_ids)) == (known.text, list(known.token_ids))

    def left_stream(self) -> bool:
        name, seed = self.some_case()
        wanted, seen = self.draw.randrange(TOKENS), []
        for piece in self.llm.stream(self.inputs[name], seed=seed, **SAMPLING):
            seen.append(piece.token_id)
            if len(seen) > wanted:
                break
        return seen == list(self.known[name, seed].token_ids)[: len(seen)]

    def aborted(self) -> bool:
        name, seed = self.some_case()
        timer = threading.Timer(self.draw.random() * 0.004, self.llm.abort)
        timer.start()
        try:
            answer = self.answer(name, seed)
        finally:
            timer.join()
        return list(answer.token_ids) == list(self.known[name, seed].token_ids)[: len(answer.token_ids)]

    def stepped(self) -> bool:
        with self.llm.session() as session:
            session.prefill(self.ids)
            with session.fork() as fork:
                fork.truncate(self.draw.randrange(1, len(self.ids)))
                fork.prefill(self.ids, whole=True)
                return self._greedy_of(fork) == self._greedy_of(session) == list(self.greedy)

    def _greedy_of(self, session: rkllm_ext.Session) -> list[int]:
        tokens = []
        for _ in range(TOKENS):
            assert session.logits is not None
            tokens.append(int(session.logits.argmax()))
            session.step(tokens[-1])
        return tokens

    def stepped_together(self) -> bool:
        sessions = [self.llm.session() for _ in range(3)]
        try:
            for each in sessions:
                each.prefill(self.ids)
            for token in self.greedy:
                if any(int(each.logits.argmax()) != token for each in sessions if each.logits is not None):
                    return False
                rkllm_ext.step_together(sessions, [token] * len(sessions))
            return True
        finally:
            for each in sessions:
                each.close()

    def with_adapter(self) -> bool:
        name = f"adapter {self.draw.randrange(3)}"
        self.llm.load_lora(self.lora, name)
        adapted = self.llm.generate(self.ids, lora=name, **GREEDY).token_ids
        self.llm.release_lora(name)
        plain = self.llm.generate(self.ids, **GREEDY).token_ids
        return list(adapted) == list(self.adapted) and list(plain) == list(self.greedy)

    def second_model(self) -> bool:
        with LLM(self.model, max_context_len=128, n_threads=self.draw.choice((1, 2))) as other:
            return list(other.generate(self.ids, **GREEDY).token_ids) == list(self.greedy)

    def logits(self) -> bool:
        rows = self.llm.logits(self.ids)
        return int(rows[-1].argmax()) == self.greedy[0] and len(self.llm.hidden_states(self.ids)) == len(self.ids)

    def with_cache(self) -> bool:
        path = self.folder / f"cache-{self.draw.randrange(2)}.bin"
        self.llm.save_prompt_cache(self.ids[:12], path)
        self.llm.load_prompt_cache(path)
        tokens = self.llm.generate(self.ids, **GREEDY).token_ids
        self.llm.release_prompt_cache()
        return list(tokens) == list(self.greedy)

    def run(
        self, runs: int, every: int, show: Callable[[Usage], None] = lambda _: None
    ) -> tuple[list[Usage], Counter[str]]:
        """Do this many random things and return what the process held on the way, and how often each was wrong."""
        seen, wrong = [usage(0)], Counter[str]()
        for name in self.actions:
            wrong[name] = 0
        for number in range(1, runs + 1):
            name = self.draw.choice(list(self.actions))
            wrong[name] += not self.actions[name]()
            if number % every == 0:
                seen.append(usage(number))
                show(seen[-1])
        self.llm.close()
        return seen, wrong


def verdict(seen: list[Usage], wrong: Counter[str], most_growth_mb: float = MOST_GROWTH_MB) -> list[str]:
    """Return what is not as it should be."""
    steady = [each for each in seen if each.runs * 5 >= seen[-1].runs]
    first, last = steady[0], steady[-1]
    faults = [f"{count} wrong answers: {name}" for name, count in wrong.items() if count]
    if last.resident_mb - first.resident_mb > most_growth_mb:
        faults.append(f"memory grew from {first.resident_mb:.1f} to {last.resident_mb:.1f} MB")
    for what in ("threads", "files"):
        if getattr(last, what) > getattr(first, what):
            faults.append(f"{what} grew from {getattr(first, what)} to {getattr(last, what)}")
    return faults


def small_model(folder: Path) -> tuple[Path, Path]:
    """Convert the small random model of the tests and an adapter for it."""
    sys.path.insert(0, str(REPO / "tests" / "reference"))
    from adapters import random_pairs, write_peft

    source = REPO / "tests" / "data" / "tiny-llama"
    rkllm_ext.convert(source, folder / "tiny.rkllm", "w8a8")
    pairs = random_pairs({"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}, 4)
    rkllm_ext.convert_lora(write_peft(folder / "adapter", pairs), source, folder / "tiny_lora.rkllm")
    return folder / "tiny.rkllm", folder / "tiny_lora.rkllm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lora", type=Path)
    given = parser.parse_args()
    if (given.model is None) != (given.lora is None):
        parser.error("--model and --lora belong together")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, lora = (given.model, given.lora) if given.model else small_model(folder)
        print(f"{'runs':>6} {'resident MB':>12} {'threads':>8} {'files':>6}")
        soak = Soak(model, lora, folder, given.seed)
        seen, wrong = soak.run(
            given.runs,
            max(1, given.runs // 20),
            lambda now: print(f"{now.runs:6} {now.resident_mb:12.1f} {now.threads:8} {now.files:6}", flush=True),
        )
    print("done: " + ", ".join(wrong))
    faults = verdict(seen, wrong)
    print("\n".join(faults) or "no wrong answer; memory, threads and files stay flat")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A run while it lasts: threads, event loops, exceptions, garbage, signals, and the end of the program.

The queue between the library and Python holds 1024 tokens, and the model's context 16384. A run of more tokens than
that cannot end while nobody reads it, so these tests need no clock to find it alive.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from rkllm_ext import LLM, Stream
from rkllm_ext.errors import BusyError, InvalidArgumentError

PROMPT = "Once upon a time"
MANY = 6000  # more than the queue's two sides hold


@pytest.fixture()
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=16384, max_new_tokens=-1, seed=1, n_threads=1) as model:
        yield model


def assert_usable(llm: LLM) -> None:
    assert not llm.is_running
    assert len(llm.generate(PROMPT, ignore_eos=True, max_new_tokens=3).token_ids) == 3


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


# ---- the end of a stream --------------------------------------------------------------------------------------------


def test_break_ends_the_run(llm: LLM) -> None:
    for _ in llm.stream(PROMPT, ignore_eos=True):
        break
    assert_usable(llm)


def test_an_exception_in_the_loop_ends_the_run(llm: LLM) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in llm.stream(PROMPT, ignore_eos=True):
            1 / 0  # noqa: B018
    assert_usable(llm)


def test_an_exception_in_a_with_block_ends_the_run_of_a_named_stream(llm: LLM) -> None:
    with pytest.raises(ZeroDivisionError), llm.stream(PROMPT, ignore_eos=True) as stream:
        for _ in stream:
            1 / 0  # noqa: B018
    assert stream.finish_reason == "abort"
    assert_usable(llm)


def test_a_stream_that_is_never_read_ends_with_its_last_reference(llm: LLM) -> None:
    stream = llm.stream(PROMPT, ignore_eos=True)
    assert llm.is_running
    del stream
    assert_usable(llm)


def test_a_stream_in_a_reference_cycle_is_ended_by_the_collector(llm: LLM) -> None:
    cycle: list[object] = [llm.stream(PROMPT, ignore_eos=True)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert_usable(llm)


def test_a_model_and_its_live_stream_are_collected_together(tiny_model: Path) -> None:
    model = LLM(tiny_model, max_context_len=16384, max_new_tokens=-1)
    gone = weakref.ref(model._handle)
    cycle: list[object] = [model, model.stream(PROMPT, ignore_eos=True)]
    cycle.append(cycle)
    del model, cycle
    gc.collect()
    assert gone() is None


def test_a_stream_keeps_its_model(tiny_model: Path) -> None:
    model = LLM(tiny_model, max_context_len=16384, max_new_tokens=MANY)
    stream = model.stream(PROMPT, ignore_eos=True)
    del model
    gc.collect()
    assert sum(1 for _ in stream) == MANY


def test_a_closed_stream_is_over(llm: LLM) -> None:
    stream = llm.stream(PROMPT, ignore_eos=True)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert stream.finish_reason == "abort"
    assert_usable(llm)


def test_a_stream_that_was_read_stays_at_its_end(llm: LLM) -> None:
    stream = llm.stream(PROMPT, ignore_eos=True, max_new_tokens=3)
    assert len(list(stream)) == 3
    assert list(stream) == []
    assert stream.finish_reason == "length"
    assert stream.perf is not None
    assert stream.perf.finish_reason == "length"


def test_pieces_of_an_ended_run_can_be_read_after_the_next_has_begun(llm: LLM) -> None:
    first = llm.stream(PROMPT, ignore_eos=True, max_new_tokens=5)
    while not first.ended:  # five tokens fit the queue: the run ends by itself
        pass
    second = llm.generate(PROMPT, ignore_eos=True, max_new_tokens=2)
    assert len(list(first)) == 5
    assert first.perf is not None
    assert second.perf is not None
    assert (first.perf.generate_tokens, second.perf.generate_tokens) == (4, 1)  # the first token is of the prefill


def test_closing_the_model_ends_a_live_stream(tiny_model: Path) -> None:
    model = LLM(tiny_model, max_context_len=16384, max_new_tokens=-1)
    stream = model.stream(PROMPT, ignore_eos=True)
    next(stream)
    model.close()
    rest = sum(1 for _ in stream)
    assert rest < MANY
    assert stream.finish_reason == "abort"
    with pytest.raises(InvalidArgumentError, match="closed"):
        model.generate(PROMPT)


def test_many_runs_leave_no_thread_no_file_and_no_memory_behind(tiny_model: Path) -> None:
    code = """
import os, resource, sys
import numpy  # has threads of its own
from rkllm_ext import LLM

def state():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

with LLM(sys.argv[1], max_context_len=4096, max_new_tokens=-1, n_threads=1) as llm:
    def some(count):
        for i in range(count):
            for _ in llm.stream("x", ignore_eos=True):
                break
            llm.generate("x", max_new_tokens=1)
            llm.stream("x", ignore_eos=True).fileno()
    before = state()
    some(100)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    some(300)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    while state() != before:  # the library's last thread is on its way out
        pass
    print(grown)
"""
    result = run(code, tiny_model)  # which fails when that takes minutes
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 4096, "KiB for 900 runs"


def test_a_stream_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"LLM\.stream"):
        Stream()


# ---- threads --------------------------------------------------------------------------------------------------------


def test_other_threads_run_while_the_model_decodes(llm: LLM) -> None:
    count = 0
    stop = threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        before = count
        answer = llm.generate(PROMPT, ignore_eos=True, max_new_tokens=2000)  # one call into C
        after = count
    finally:
        stop.set()
        worker.join()
    assert len(answer.token_ids) == 2000
    assert after > before


def test_no_thread_is_made_for_a_token(llm: LLM) -> None:
    of_python = threading.active_count()  # other tests' clients may have left some
    with llm.stream(PROMPT, ignore_eos=True) as stream:
        next(stream)
        before = len(os.listdir("/proc/self/task"))
        for _ in range(500):
            next(stream)
        assert len(os.listdir("/proc/self/task")) <= before  # the thread of an earlier run may have gone
    assert threading.active_count() <= of_python


def test_abort_from_another_thread_ends_the_answer(llm: LLM) -> None:
    started = threading.Event()

    def abort() -> None:
        started.wait()
        llm.abort()

    other = threading.Thread(target=abort)
    other.start()
    stream = llm.stream(PROMPT, ignore_eos=True, max_new_tokens=16000)
    next(stream)
    started.set()
    _, ids = stream.collect()
    other.join()
    assert len(ids) < 16000
    assert stream.finish_reason == "abort"
    assert llm.perf is not None
    assert llm.perf.finish_reason == "abort"
    assert_usable(llm)


def test_abort_without_a_run_does_nothing(llm: LLM) -> None:
    llm.abort()
    assert_usable(llm)


def test_an_aborted_run_keeps_the_tokens_that_were_there(llm: LLM) -> None:
    whole = [piece.token_id for piece in llm.stream(PROMPT, ignore_eos=True, max_new_tokens=500)]
    stream = llm.stream(PROMPT, ignore_eos=True, max_new_tokens=MANY)
    first = next(stream)
    llm.abort()
    ids = [first.token_id, *(piece.token_id for piece in stream)]
    assert ids[:500] == whole[: len(ids)]


def test_one_of_many_threads_gets_the_model(llm: LLM) -> None:
    barrier = threading.Barrier(4)
    outcomes: list[str] = []

    def ask() -> None:
        barrier.wait()
        for _ in range(50):
            try:
                answer = llm.generate(PROMPT, ignore_eos=True, max_new_tokens=3)
                outcomes.append(str(len(answer.token_ids)))
            except BusyError:
                outcomes.append("busy")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 200
    assert set(outcomes) <= {"3", "busy"}
    assert outcomes.count("3") > 0
    assert_usable(llm)


def test_closing_from_another_thread_ends_a_run(tiny_model: Path) -> None:
    model = LLM(tiny_model, max_context_len=16384, max_new_tokens=-1)
    reading = threading.Event()
    seen: list[object] = []

    def read() -> None:
        stream = model.stream(PROMPT, ignore_eos=True)
        next(stream)
        reading.set()
        seen.append(sum(1 for _ in stream) < 16384)
        seen.append(stream.finish_reason)

    reader = threading.Thread(target=read)
    reader.start()
    reading.wait()
    model.close()
    reader.join()
    # A fast reader may have had its last token before the close.
    assert seen in ([True, "abort"], [True, "context"])


# ---- event loops ----------------------------------------------------------------------------------------------------


def test_async_for_gives_the_pieces_of_stream(llm: LLM) -> None:
    async def read() -> list[int]:
        return [piece.token_id async for piece in llm.astream(PROMPT, ignore_eos=True, max_new_tokens=MANY)]

    ids = asyncio.run(read())
    assert ids == [piece.token_id for piece in llm.stream(PROMPT, ignore_eos=True, max_new_tokens=MANY)]


def test_two_models_and_a_task_make_progress_in_one_loop_without_threads(llm: LLM, tiny_model: Path) -> None:
    order: list[str] = []
    of_python = threading.active_count()  # other tests' clients may have left some

    async def read(name: str, model: LLM) -> int:
        count = 0
        async for _ in model.astream(PROMPT, ignore_eos=True, max_new_tokens=MANY):
            count += 1
            order.append(name)
        return count

    async def tick() -> None:
        while True:
            order.append("tick")
            await asyncio.sleep(0)

    async def main(other: LLM) -> list[int]:
        ticker = asyncio.create_task(tick())
        counts = await asyncio.gather(read("a", llm), read("b", other))
        assert threading.active_count() <= of_python
        ticker.cancel()
        return list(counts)

    with LLM(tiny_model, max_context_len=16384, n_threads=1) as other:
        assert asyncio.run(main(other)) == [MANY, MANY]
    last = max(index for index, name in enumerate(order) if name == "b")
    first = order.index("b")
    assert "a" in order[:last]
    assert "a" in order[first:]
    assert "tick" in order[first:last]


def test_leaving_async_for_ends_the_run(llm: LLM) -> None:
    async def leave() -> None:
        async with llm.astream(PROMPT, ignore_eos=True) as stream:
            async for _ in stream:
                break
        assert not llm.is_running
        async for _ in llm.astream(PROMPT, ignore_eos=True):
            break
        # Dropped without `async with`: the next run waits for the end of this one.
        assert len(llm.generate(PROMPT, ignore_eos=True, max_new_tokens=3).token_ids) == 3

    asyncio.run(leave())
    assert_usable(llm)


def test_a_cancelled_task_ends_its_run(llm: LLM) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in llm.astream(PROMPT, ignore_eos=True, max_new_tokens=16000):
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answer = llm.generate(PROMPT, ignore_eos=True, max_new_tokens=3)
        assert len(answer.token_ids) == 3

    asyncio.run(main())


def test_dropping_an_old_stream_leaves_a_new_run_alone(llm: LLM) -> None:
    async def main() -> None:
        old = llm.astream(PROMPT, ignore_eos=True, max_new_tokens=3)
        while llm.is_running:  # three tokens fit the queue: the run ends by itself
            pass
        new = llm.stream(PROMPT, ignore_eos=True, max_new_tokens=MANY)
        del old
        gc.collect()
        assert sum(1 for _ in new) == MANY
        assert new.finish_reason == "length"

    asyncio.run(main())


def test_a_refused_input_is_raised_in_async_code(llm: LLM) -> None:
    async def ask() -> None:
        with pytest.raises(InvalidArgumentError, match="a list"):
            llm.astream([1, 2])  # type: ignore[arg-type]
        async for _ in llm.astream(PROMPT, max_new_tokens=1):
            pass

    asyncio.run(ask())
    assert_usable(llm)


# ---- signals and the end of the program -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use", ["llm.generate('x', ignore_eos=True)", "[None for _ in llm.stream('x', ignore_eos=True)]"]
)
def test_ctrl_c_ends_the_run_and_leaves_the_model_usable(tiny_model: Path, use: str) -> None:
    code = f"""
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
from rkllm_ext import LLM
llm = LLM(sys.argv[1], max_context_len=16384, max_new_tokens=-1, n_threads=1)

def interrupt():
    while not llm.is_running:
        pass
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    {use}
    print("ended by itself")
except KeyboardInterrupt:
    print("interrupted", llm.is_running, len(llm.generate("x", ignore_eos=True, max_new_tokens=3).token_ids))
"""
    result = run(code, tiny_model)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "interrupted False 3\n"


def test_ctrl_c_from_outside_ends_a_program_that_waits(tiny_model: Path) -> None:
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
from rkllm_ext import LLM
llm = LLM(sys.argv[1], max_context_len=16384, max_new_tokens=-1, n_threads=1)
while True:
    for piece in llm.stream("x", ignore_eos=True):
        print(piece.token_id, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in errors
    assert process.returncode in (-signal.SIGINT, 1, 130)


@pytest.mark.parametrize(
    "ending",
    ["", "sys.exit(0)", "del llm", "stream.close()", "globals().update(loop=[stream, llm]); loop.append(loop)"],
    ids=["end", "exit", "model-first", "closed", "cycle"],
)
def test_a_program_ends_with_a_live_stream(tiny_model: Path, ending: str) -> None:
    code = f"""
import sys
from rkllm_ext import LLM
llm = LLM(sys.argv[1], max_context_len=16384, max_new_tokens=-1, n_threads=2)
stream = llm.stream("x", ignore_eos=True)
next(stream)
print("alive", llm.is_running)
{ending}
"""
    result = run(code, tiny_model)
    assert (result.returncode, result.stdout, result.stderr) == (0, "alive True\n", "")


def test_a_program_ends_while_a_daemon_thread_reads(tiny_model: Path) -> None:
    code = """
import sys, threading
from rkllm_ext import LLM
llm = LLM(sys.argv[1], max_context_len=16384, max_new_tokens=-1, n_threads=1)
reading = threading.Event()

def read():
    while True:
        for _ in llm.stream("x", ignore_eos=True):
            reading.set()

threading.Thread(target=read, daemon=True).start()
reading.wait()
"""
    result = run(code, tiny_model)
    assert result.returncode == 0, result.stderr

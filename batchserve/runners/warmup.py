"""Run a model before anybody waits for it, and learn where its forward pass should run."""

import asyncio
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

from batchserve.runners.base import Runner
from batchserve.runners.forward import Forward
from batchserve.runners.inline import InlineRunner
from batchserve.runners.thread import ThreadRunner

# Whatever blocks the event loop for longer makes other requests wait for it.
LOOP_BUDGET_S = 200e-6
DOUBTFUL_S = 2e-3
TRIALS, TRIALS_S = 20, 0.3
TIMED_PASSES, TIMED_S = 5, 0.1


def warm_up(
    forward: Forward,
    example: torch.Tensor,
    max_batch_size: int,
    on_size: Callable[[int, float], None] = lambda _size, _seconds: None,
) -> dict[int, float]:
    """Run each power of two up to `max_batch_size`, and that itself: once unmeasured, then timed.

    Args:
        forward: the pass to warm up.
        example: one item, without the batch dimension.
        max_batch_size: N.
        on_size: called with each size and the seconds that a pass of it takes.

    Returns:
        Seconds by batch size.
    """
    seconds: dict[int, float] = {}
    for size in _sizes(max_batch_size):
        items = [example] * size
        forward(items)
        seconds[size] = _seconds_of_pass(forward, items)
        on_size(size, seconds[size])
    return seconds


def _seconds_of_pass(forward: Forward, items: list[torch.Tensor]) -> float:
    # The shortest of a few: whatever else the machine does only adds to it.
    passes: list[float] = []
    while len(passes) < TIMED_PASSES and sum(passes) < TIMED_S:
        started_s = time.perf_counter()
        forward(items)
        passes.append(time.perf_counter() - started_s)
    return min(passes)


async def choose_runner(
    forward: Forward, example: torch.Tensor | None, full_batch_s: float, size: int
) -> Runner:
    """Return the runner that suits this pass: on the loop's own thread, or on another.

    Args:
        forward: the pass, warmed up.
        example: one item; None: there is no telling, and a thread is always safe.
        full_batch_s: what a pass of `size` items took at warm-up.
        size: the largest batch.
    """
    threaded = ThreadRunner(forward)
    # Only a light pass leaves any doubt; trying a heavy one here would block the loop.
    if example is None or full_batch_s > DOUBTFUL_S:
        return threaded
    items = [example] * size
    trials: list[tuple[float, float]] = []
    until_s = time.perf_counter() + TRIALS_S
    while len(trials) < TRIALS and (not trials or time.perf_counter() < until_s):
        trials.append(await _compare(forward, threaded, items))
    inline_s = median(inline_s for inline_s, _ in trials)
    hand_over_s = median(threaded_s - inline_s for inline_s, threaded_s in trials)
    if inline_s > max(hand_over_s, LOOP_BUDGET_S):
        return threaded
    threaded.close()
    return InlineRunner(forward)


async def _compare(
    forward: Forward, threaded: ThreadRunner, items: list[torch.Tensor]
) -> tuple[float, float]:
    """Return the seconds of a pass on this thread and on another, beside a busy loop."""
    started_s = time.perf_counter()
    forward(items)
    inline_s = time.perf_counter() - started_s
    # A thread contends with the loop for the GIL; beside an idle one it would look too good.
    busy = asyncio.create_task(_answer_requests())
    started_s = time.perf_counter()
    await threaded.forward(items)
    threaded_s = time.perf_counter() - started_s
    busy.cancel()
    return inline_s, threaded_s


async def _answer_requests() -> None:
    """Hold the GIL as a loop does that parses and answers requests, 100 µs each."""
    while True:
        until_s = time.perf_counter() + 100e-6
        while time.perf_counter() < until_s:
            pass
        await asyncio.sleep(0)


def _sizes(max_batch_size: int) -> Iterator[int]:
    size = 1
    while size < max_batch_size:
        yield size
        size *= 2
    yield max_batch_size

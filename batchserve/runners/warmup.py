"""Run a model before anybody waits for it, and learn where its forward pass should run."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from statistics import median

import torch

from batchserve.batching.knee import (
    DISAPPOINTMENTS,
    disappoints,
    largest_that_pays,
    powers_of_two,
)
from batchserve.runners.at_once import AtOnce
from batchserve.runners.base import OutOfMemory, Runner
from batchserve.runners.forward import Forward
from batchserve.runners.inline import InlineRunner
from batchserve.runners.thread import ThreadRunner

# Whatever blocks the event loop for longer makes other requests wait for it, which may pay for a
# pass, but not for a long one.
LOOP_BUDGET_S = 200e-6
DOUBTFUL_S = 2e-3
TRIALS, TRIALS_S = 20, 0.3
# What the loop does for a request; a pass that takes this share of that, for all requests in its
# batch, is not worth a thread, which contends with the loop for the GIL.
REQUEST_S, LIGHT = 50e-6, 0.25
# Where N is to be found out, the search ends with a pass so long: it is a wait for others.
LONG_PASS_S = 2.0
# And it does not end with a pass so short, which any other process can have spoilt.
SHORT_PASS_S = 0.05
# In the end all sizes are measured in turn, so often or so long: what else the machine does passes.
ROUNDS, ROUNDS_S = 30, 0.5
# Below it, a disappointment is more likely the machine's than the model's.
LEAST = 4
MOST = 256


def warm_up(
    forward: Forward,
    example: torch.Tensor,
    max_batch_size: int | None,
    on_size: Callable[[int, float], None] = lambda _size, _seconds: None,
    most: int = MOST,
) -> dict[int, float]:
    """Run the sizes that batches may have, and find out what each takes.

    These are the powers of two up to `max_batch_size` and that itself. Where it is not stated, they
    are as many as pay; where every batch is padded, all sizes are one. A size that the memory does
    not suffice for ends it.

    Args:
        forward: the pass to warm up, with its number of threads, for which it may be compiled.
            Where there are streams, as many passes are timed at the same time.
        example: one item, without the batch dimension.
        max_batch_size: N; None: find out.
        on_size: called with each size and the seconds that a pass of it takes.
        most: the largest size to try where N is to be found out.

    Returns:
        Seconds by batch size. The largest is the one to use.

    Raises:
        OutOfMemory: the memory does not even suffice for the smallest.
    """
    forward.compile_what_comes()
    with closing(AtOnce(forward, forward.streams)) as at_once:
        if forward.pad_to is not None:
            took_s = at_once.shortest_s([example] * forward.pad_to)
            on_size(forward.pad_to, took_s)
            return {1: took_s, forward.pad_to: took_s}
        if max_batch_size is None:
            # No more items at the same time than one pass would be tried with.
            most = min(most, max(LEAST, most // forward.streams))
            seconds = _search(forward, at_once, example, on_size, most)
        else:
            seconds = {}
            for size, took_s in _measured(forward, at_once, example, max_batch_size):
                seconds[size] = took_s
                on_size(size, took_s)
    if forward.may_compile and forward.all_threads != forward.threads:
        # What is compiled is so once for one item, and once for any number more.
        for size in range(1, min(2, max(seconds)) + 1):
            forward([example] * size, all_cores=True)
    return seconds


def sizes_to_try(forward: Forward, max_batch_size: int | None) -> int | None:
    """Return how many sizes `warm_up` runs; None: nobody knows before they are tried."""
    if forward.pad_to is not None:
        return 1
    return None if max_batch_size is None else len(powers_of_two(max_batch_size))


def _search(
    forward: Forward,
    at_once: AtOnce,
    example: torch.Tensor,
    on_size: Callable[[int, float], None],
    most: int,
) -> dict[int, float]:
    seconds: dict[int, float] = {}
    for size, took_s in _measured(forward, at_once, example, most):
        seconds[size] = took_s
        on_size(size, took_s)
        if took_s > LONG_PASS_S:
            break
        if took_s > SHORT_PASS_S and disappoints(seconds):
            # It may have been the machine, which had something else to do meanwhile.
            for last in list(seconds)[-DISAPPOINTMENTS - 1 :]:
                seconds[last] = min(seconds[last], at_once.shortest_s([example] * last))
            if disappoints(seconds):
                break
    with as_served(forward):
        seconds = _measured_again(at_once, example, seconds)
    largest = max(largest_that_pays(seconds), LEAST)
    return {size: took_s for size, took_s in seconds.items() if size <= largest}


def _measured_again(
    at_once: AtOnce, example: torch.Tensor, seconds: Mapping[int, float]
) -> dict[int, float]:
    """Return the shortest passes after a few more rounds, as many as there is time for."""
    shortest = dict(seconds)
    rounds = min(ROUNDS, int(ROUNDS_S / sum(shortest.values())))
    for _ in range(rounds):
        for size, took_s in shortest.items():
            shortest[size] = min(took_s, at_once.seconds([example] * size))
    return shortest


def _measured(
    forward: Forward, at_once: AtOnce, example: torch.Tensor, most: int
) -> Iterator[tuple[int, float]]:
    """Yield sizes with the seconds of a pass, as far as the memory suffices."""
    for size in powers_of_two(most):
        items = [example] * size
        try:
            if forward.streams > 1:
                forward(items)  # what is computed or compiled once is so by one
            with as_served(forward):
                took_s = at_once.shortest_s(items)
        except OutOfMemory:
            if size == 1:
                raise
            return
        yield size, took_s


def as_served(forward: Forward) -> AbstractContextManager[None]:
    """Let several threads call the pass, if there are to be several."""
    return forward.settled() if forward.streams > 1 else nullcontext()


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
    if example is None or full_batch_s > DOUBTFUL_S or forward.streams > 1:
        return threaded
    light_s = max(LOOP_BUDGET_S, LIGHT * size * REQUEST_S)
    if full_batch_s > light_s and await _thread_pays(forward, threaded, [example] * size):
        return threaded
    threaded.close()
    return InlineRunner(forward)


async def _thread_pays(
    forward: Forward, threaded: ThreadRunner, items: Sequence[torch.Tensor]
) -> bool:
    """Whether the loop gets its work done sooner if a pass runs on another thread meanwhile."""
    trials: list[tuple[float, float]] = []
    until_s = time.perf_counter() + TRIALS_S
    while len(trials) < TRIALS and (not trials or time.perf_counter() < until_s):
        trials.append(await _compare(forward, threaded, items))
    apart_s = median(apart_s for apart_s, _ in trials)
    beside_s = median(beside_s for _, beside_s in trials)
    return beside_s < apart_s


async def _compare(
    forward: Forward, threaded: ThreadRunner, items: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """Return the seconds of a pass and of answering a batch: one after the other, and together."""
    started_s = time.perf_counter()
    forward(items)
    await _answer(len(items))
    apart_s = time.perf_counter() - started_s

    started_s = time.perf_counter()
    await asyncio.gather(threaded.forward(items), _answer(len(items)))
    return apart_s, time.perf_counter() - started_s


async def _answer(count: int) -> None:
    """Do what parsing and answering so many requests does to other threads.

    Whoever sends lets go of the GIL, and a thread that takes it then may keep it for 5 ms.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for _ in range(count):
        until_s = time.perf_counter() + REQUEST_S
        while time.perf_counter() < until_s:
            pass
        os.write(writing, b".")
        await asyncio.sleep(0)
    os.close(reading)
    os.close(writing)

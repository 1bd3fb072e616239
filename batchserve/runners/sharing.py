"""How the cores are shared: how many passes run at the same time, and how many cores each has.

Threads that share a pass wait for each other after each operation. If one of them does not get a
core at once, because the machine does other things, all wait; a small pass then takes a thousand
times as long. And what else the machine does is, above all, reading, decoding and answering. Passes
of different batches never wait for each other, as OpenVINO's streams do not
(https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/optimizing-throughput.html).
"""

import math
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch

from batchserve.batching.knee import powers_of_two
from batchserve.runners.at_once import AtOnce
from batchserve.runners.forward import Forward

# What more cores must save to be worth it.
WORTH = 0.2
# Streams may be so much slower while nothing else happens: while other things do, they are faster.
NO_SLOWER = 0.85
# And so much slower than more of them, as more make each batch wait longer.
AS_FAST = 0.95
# What a small request costs beside the pass: the loop's part, and the kernel's.
REQUEST_S = 150e-6
TRIALS, TRIALS_S = 9, 1.0


class Sharing(NamedTuple):
    """Who gets which cores.

    Attributes:
        streams: passes that run at the same time.
        threads: cores of each of them.
        all_threads: cores of a pass while nothing else happens.
    """

    streams: int
    threads: int
    all_threads: int

    @classmethod
    def by_one(cls, threads: int) -> "Sharing":
        """One pass at a time."""
        return cls(1, threads, threads)

    def __str__(self) -> str:
        cores = f"{self.threads} core{'' if self.threads == 1 else 's'}"
        if self.streams == 1:
            return f"one batch at a time, on {cores}"
        alone = f", a lone one on {self.all_threads}" if self.all_threads != self.threads else ""
        return f"{self.streams} batches at the same time, each on {cores}{alone}"


def use(forward: Forward, sharing: Sharing) -> None:
    """Have passes share the cores so."""
    forward.streams, forward.threads, forward.all_threads = sharing


def choose_sharing(
    forward: Forward,
    items: Sequence[torch.Tensor],
    counts: Sequence[int] = (),
    *,
    at_once: bool = False,
    longest_s: float = math.inf,
) -> Sharing:
    """Return how a busy server is done with batch after batch the soonest.

    One core is enough for a pass unless more of them save a fifth, and so are they for the server
    unless passes at the same time save as much.

    Args:
        forward: the pass, with the most threads that may be used for passes together; changed
            meanwhile.
        items: of one batch.
        counts: threads to try for a lone pass, beside 1 and the most.
        at_once: several passes may run at the same time.
        longest_s: but not if each then takes so long.

    Raises:
        Exception: whatever the pass raises.
    """
    cores = forward.threads
    if cores == 1 or not forward.on_cpu:
        return Sharing.by_one(cores)
    forward(items)  # as the first pass takes longer
    lone = [(1, threads) for threads in sorted({1, *counts, cores})]
    shared = [(cores // threads, threads) for threads in powers_of_two(cores // 2)]
    pass_s = _timed(forward, items, [*lone, *(shared if at_once else ())])
    requests_s = len(items) * REQUEST_S
    batch_s = {
        way: seconds_of_batch(*way, took_s, requests_s, cores) for way, took_s in pass_s.items()
    }
    _, threads = fewest_that_pay({way: batch_s[way] for way in lone})
    enough_s = min((1 - WORTH) * batch_s[1, 1], batch_s[1, threads] / NO_SLOWER)
    good = [
        way
        for way in (shared if at_once else ())
        if pass_s[way] < longest_s and batch_s[way] < enough_s
    ]
    if not good:
        return Sharing.by_one(threads)
    best_s = min(batch_s[way] for way in good) / AS_FAST
    # Fewer at the same time, if each batch then waits that much less.
    streams, each = fewest_that_pay({way: pass_s[way] for way in good if batch_s[way] <= best_s})
    return Sharing(streams, each, max(threads, each))


def seconds_of_batch(
    streams: int, threads: int, pass_s: float, requests_s: float, cores: int
) -> float:
    """Return how long the cores are busy with a batch, while one follows the other.

    The loop reads and answers during the passes: whatever takes longest decides, the passes, what
    the loop does on its one core, or all together on all cores.

    Args:
        streams: passes at the same time.
        threads: cores that each of them uses.
        pass_s: how long one takes.
        requests_s: what the loop does for all requests of a batch.
        cores: that there are for everything.
    """
    return max(pass_s / streams, requests_s, (requests_s + threads * pass_s) / cores)


def fewest_that_pay(seconds: Mapping[tuple[int, int], float]) -> tuple[int, int]:
    """Return the first way, or a later one that saves a fifth."""
    best = next(iter(seconds))
    for way, took_s in seconds.items():
        if took_s < (1 - WORTH) * seconds[best]:
            best = way
    return best


def _timed(
    forward: Forward, items: Sequence[torch.Tensor], ways: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], float]:
    """Return the median of a few passes by streams and threads, tried in turn."""
    seconds: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    passes = {streams: AtOnce(forward, streams) for streams in {streams for streams, _ in ways}}
    until_s = time.perf_counter() + TRIALS_S
    first = seconds[ways[0]]
    while len(first) < TRIALS and (not first or time.perf_counter() < until_s):
        for (streams, threads), took in seconds.items():
            forward.threads = threads
            took.append(passes[streams].seconds(items))
    for each in passes.values():
        each.close()
    return {way: median(took) for way, took in seconds.items()}

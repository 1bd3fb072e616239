"""Whether a model is faster if images lie pixel by pixel in memory: by measurement."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.forward import Forward

# What it must save, or it was the machine.
WORTH = 0.1
TRIALS, TRIALS_S = 5, 0.8
# Items of a batch to try: the gain grows little with more.
TRIED = 4
# By how much answers may differ, as a share of the largest number in them; half precision has more
# rounding to differ by.
TOLERANCE, ROUNDINGS = 1e-4, 4


@dataclass(frozen=True)
class Trial:
    """What came of trying.

    Attributes:
        channels_last: it is used.
        difference: the largest between two numbers of the answers, as a share of the largest one.
        gain: how many times as fast it is; None: not measured.
    """

    channels_last: bool
    difference: float
    gain: float | None = None


def choose_layout(
    forward: Forward, items: Sequence[torch.Tensor], *, measure: bool = True
) -> Trial | None:
    """Try both orders on one thread, and leave the pass in the one that is better.

    Args:
        forward: of a module with convolutions; changed meanwhile.
        items: of one batch, no two of them alike.
        measure: use it where it is faster; False: wherever answers are the same.

    Returns:
        None: the module does not run on images that lie pixel by pixel.

    Raises:
        Exception: whatever the pass raises on images that lie plane by plane.
    """
    threads, forward.threads = forward.threads, 1
    try:
        trial = _trial(forward, items, measure=measure)
    finally:
        forward.threads = threads
    forward.lay_out(channels_last=trial is not None and trial.channels_last)
    return trial


def _trial(forward: Forward, items: Sequence[torch.Tensor], *, measure: bool) -> Trial | None:
    expected = forward(items)
    forward.lay_out(channels_last=True)
    try:
        difference = largest_difference(forward(items), expected)
    except Exception:  # noqa: BLE001 - as `view` raises, of memory in another order
        return None
    difference /= largest_number(expected) or 1.0
    same = difference <= max(TOLERANCE, ROUNDINGS * forward.rounding)
    if not (same and measure):
        return Trial(same, difference)
    gain = _gain(forward, items)
    return Trial(gain * (1 - WORTH) > 1, difference, gain)


def _gain(forward: Forward, items: Sequence[torch.Tensor]) -> float:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    until_s = time.perf_counter() + TRIALS_S
    while len(seconds[True]) < TRIALS and (not seconds[True] or time.perf_counter() < until_s):
        for channels_last, took in seconds.items():
            forward.lay_out(channels_last=channels_last)
            started_s = time.perf_counter()
            forward(items)
            took.append(time.perf_counter() - started_s)
    return min(seconds[False]) / min(seconds[True])

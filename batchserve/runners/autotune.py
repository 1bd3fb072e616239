"""A short search at start among what keeps the answers: compiled or not."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.forward import Forward
from batchserve.runners.layout import TOLERANCE

# What compiled code must save, or it was the machine.
WORTH = 0.1
TRIALS, TRIALS_S = 5, 1.0


@dataclass(frozen=True)
class Tuned:
    """What was chosen.

    Attributes:
        compiled: whether compiled code is used; None: it was not tried.
        gain: how many times as fast it is.
    """

    compiled: bool | None = None
    gain: float = 1.0

    def __str__(self) -> str:
        if self.compiled is None:
            return "not compiled"
        used = "compiled" if self.compiled else "not compiled"
        return f"{used}: that is {self.gain:.2f} times as fast"


def autotune(
    forward: Forward,
    items: Sequence[torch.Tensor],
    is_compiled: Callable[[int], bool],
    *,
    compiles_anyway: bool,
) -> Tuned:
    """Use compiled code if there is some, it is faster, and answers the same.

    Args:
        forward: the pass, as it will run otherwise; changed as is chosen.
        items: of one batch, no two of them alike.
        is_compiled: whether code for so many threads is compiled already; nobody waits for a
            compiler.
        compiles_anyway: the config says so, and there is nothing to choose.

    Raises:
        Exception: whatever the pass raises when it is not compiled.
    """
    if compiles_anyway:
        return Tuned(compiled=True)
    if not (forward.may_compile and is_compiled(forward.threads)):
        forward.never_compile()
        return Tuned()
    tuned = _try_compiled(forward, items)
    forward.run_as_it_is()
    if tuned.compiled:
        # There is code for so many threads, and perhaps for no other number.
        forward.all_threads = forward.threads
    else:
        forward.never_compile()
    return tuned


def _try_compiled(forward: Forward, items: Sequence[torch.Tensor]) -> Tuned:
    expected = forward(items)
    plain_s = _seconds(forward, items)
    forward.compile_what_comes()
    try:
        # As at warm-up, so that the same is found in the cache: one item, and then several.
        for size in (1, len(items)):
            rows = forward(items[:size])
        compiled_s = _seconds(forward, items)
    except Exception:  # noqa: BLE001 - as compilers fail; uncompiled it has just run
        return Tuned(compiled=False, gain=0.0)
    difference = largest_difference(rows, expected) / (largest_number(expected) or 1.0)
    gain = plain_s / compiled_s
    return Tuned(compiled=difference <= TOLERANCE and gain * (1 - WORTH) > 1, gain=gain)


def _seconds(forward: Forward, items: Sequence[torch.Tensor]) -> float:
    passes: list[float] = []
    until_s = time.perf_counter() + TRIALS_S
    while len(passes) < TRIALS and (not passes or time.perf_counter() < until_s):
        started_s = time.perf_counter()
        forward(items)
        passes.append(time.perf_counter() - started_s)
    return min(passes)

"""How many cores a forward pass uses: no more than make the server faster.

Threads that share a pass wait for each other after each operation. If one of them does not get a
core at once, because the machine does other things, all wait; a small pass then takes a thousand
times as long. And what else the machine does is, above all, reading and answering requests.
"""

import time
from collections.abc import Mapping, Sequence

import torch

from batchserve.runners.forward import Forward

# What more cores must save to be worth it.
WORTH = 0.2
# What a small request costs beside the pass: the loop's part, and the kernel's.
REQUEST_S = 150e-6
TRIALS, TRIALS_S = 7, 0.5


def choose_threads(
    forward: Forward, items: Sequence[torch.Tensor], counts: Sequence[int] = ()
) -> int:
    """Return 1, or more threads if batch after batch is done so much faster with them.

    Args:
        forward: the pass, with the most threads that it may use; changed meanwhile.
        items: of one batch.
        counts: those to try beside 1 and the most.

    Raises:
        Exception: whatever the pass raises.
    """
    most = forward.threads
    if most == 1 or not forward.on_cpu:
        return most
    seconds: dict[int, list[float]] = {count: [] for count in sorted({1, *counts, most})}
    until_s = time.perf_counter() + TRIALS_S
    while len(seconds[1]) < TRIALS and (not seconds[1] or time.perf_counter() < until_s):
        for threads, took in seconds.items():
            forward.threads = threads
            started_s = time.perf_counter()
            forward(items)
            took.append(time.perf_counter() - started_s)
    requests_s = len(items) * REQUEST_S
    return _fewest_that_pay(
        {
            threads: seconds_of_batch(threads, min(took), requests_s, cores=most)
            for threads, took in seconds.items()
        }
    )


def seconds_of_batch(threads: int, pass_s: float, requests_s: float, cores: int) -> float:
    """Return how long the cores are busy with a batch, while one follows the other.

    The loop reads and answers during the pass: whatever takes longest decides, a pass, what the
    loop does on its one core, or both together on all cores.

    Args:
        threads: cores that the pass uses.
        pass_s: how long it takes with them.
        requests_s: what the loop does for all requests of a batch.
        cores: that there are for both.
    """
    return max(pass_s, requests_s, (requests_s + threads * pass_s) / cores)


def _fewest_that_pay(seconds: Mapping[int, float]) -> int:
    best = 1
    for threads, took_s in seconds.items():
        if took_s < (1 - WORTH) * seconds[best]:
            best = threads
    return best

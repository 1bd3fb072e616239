"""The most that anybody could do who knew what is coming."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def most_in_time(
    arrivals_s: Sequence[float], promise_s: float, pass_s: Callable[[int], float], largest: int
) -> int:
    """Return how many requests one device can answer in time at most: the exact optimum.

    Of requests of one item, one shape, one priority and one promise, whose arrivals and the time of
    whose passes are known in advance; nobody has to be answered, and nothing else takes time.

    With equal promises there is a best schedule whose batches hold requests that arrived one after
    the other, in that order: within a batch the last to arrive decides when it can start and the
    first when it must be done, so whoever came between may take the place of one outside. So, over
    the first j requests, the earliest time at which k of them can be done is the smaller of what it
    is without the jth, and, for each size b of a batch that ends with the jth, the later of the
    jth's arrival and of the time at which k - b of the first j - b can be done, plus the pass; if
    that is no later than the first of the batch is due. O(n·k·b), in blocks of numpy.

    Args:
        arrivals_s: in order.
        promise_s: an answer after that, counted from its arrival, is worth nothing.
        pass_s: seconds of a pass by batch size.
        largest: N.
    """
    seconds = [pass_s(size) for size in range(1, largest + 1)]
    return sum(
        _most_of_block(block, promise_s, seconds)
        for block in _blocks(np.asarray(arrivals_s), promise_s)
    )


def _blocks(arrivals_s: Floats, promise_s: float) -> list[Floats]:
    """Part the requests where the last of one part must be done before the first of the next."""
    gaps = [
        index + 1
        for index, (before, after) in enumerate(pairwise(arrivals_s.tolist()))
        if after - before > promise_s
    ]
    return [block for block in np.split(arrivals_s, gaps) if len(block)]


def _most_of_block(arrivals_s: Floats, promise_s: float, seconds: Sequence[float]) -> int:
    count = len(arrivals_s)
    nobody = np.full(count + 1, np.inf)
    nobody[0] = 0.0
    done_s = [nobody]  # the last rows only: row j holds, for each k, the earliest time
    for last in range(count):
        row = done_s[-1].copy()
        for size, pass_s in enumerate(seconds[: last + 1], start=1):
            due_s = arrivals_s[last - size + 1] + promise_s
            if arrivals_s[last] + pass_s > due_s:
                continue
            ends_s = np.maximum(done_s[-size][: count + 1 - size], arrivals_s[last]) + pass_s
            ends_s[ends_s > due_s] = np.inf
            np.minimum(row[size:], ends_s, out=row[size:])
        done_s = [*done_s[1 - len(seconds) :], row] if len(seconds) > 1 else [row]
    return int(np.flatnonzero(np.isfinite(done_s[-1]))[-1])

"""One pass on several threads at the same time, as on a server that is busy: to try and to time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import torch

from batchserve.own_thread import keep_to_one_core
from batchserve.runners.stopwatch import Stopwatch

# A pass that is to be timed is run so often or so long.
TIMED_PASSES, TIMED_S = 5, 0.3

R = TypeVar("R")
Pass = Callable[[Sequence[torch.Tensor]], list[Any]]


class AtOnce:
    """Calls a pass as often as there are streams, each on a thread of its own.

    Args:
        pass_: from items to rows.
        streams: how many times at the same time. With 1, it is called on the caller's thread.
    """

    def __init__(self, pass_: Pass, streams: int) -> None:
        self._pass, self._streams = pass_, streams
        self._threads = ThreadPoolExecutor(streams, "at-once", keep_to_one_core)

    def __call__(self, items: Sequence[torch.Tensor]) -> list[Any]:
        """Return the rows of one of the passes, once all have ended.

        Raises:
            Exception: whatever one of them raised.
        """
        if self._streams == 1:
            return self._pass(items)
        return self.each([items] * self._streams)[0]

    def seconds(self, items: Sequence[torch.Tensor]) -> float:
        """Return what the longest of the passes takes, where each gets a core at once.

        Raises:
            Exception: whatever one of them raised.
        """
        if self._streams == 1:
            return self._timed(items)
        return max(self._all([partial(self._timed, items)] * self._streams))

    def shortest_s(self, items: Sequence[torch.Tensor]) -> float:
        """Return what the shortest of a few takes: whatever else the machine does adds to others.

        Raises:
            Exception: whatever one of them raised.
        """
        first_s = self.seconds(items)
        passes = [self.seconds(items)]
        while len(passes) < TIMED_PASSES and sum(passes) < TIMED_S:
            passes.append(self.seconds(items))
        return min(first_s, *passes)

    def each(self, batches: Sequence[Sequence[torch.Tensor]]) -> list[list[Any]]:
        """Return the rows of each batch, computed at the same time."""
        return self._all([partial(self._pass, items) for items in batches])

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    def _timed(self, items: Sequence[torch.Tensor]) -> float:
        stopwatch = Stopwatch()
        self._pass(items)
        return stopwatch.seconds()

    def _all(self, calls: Sequence[Callable[[], R]]) -> list[R]:
        futures = [self._threads.submit(call) for call in calls]
        wait(futures)
        return [future.result() for future in futures]

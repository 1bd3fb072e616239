"""One pass on several threads at the same time, as on a server that is busy: to try and to time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch

from batchserve.own_thread import keep_to_one_core

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

    def each(self, batches: Sequence[Sequence[torch.Tensor]]) -> list[list[Any]]:
        """Return the rows of each batch, computed at the same time."""
        futures = [self._threads.submit(self._pass, items) for items in batches]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

"""What the device has been given: the batches that are computed, and what follows them."""

import math
from collections.abc import Sequence
from itertools import chain

from batchserve.batch import Batch, CloseReason
from batchserve.batching.cost import Cost


class InFlight:
    """Batches between the queue and their answers.

    Args:
        cost: what passes take.
        streams: passes that run at the same time.
    """

    def __init__(self, cost: Cost, streams: int = 1) -> None:
        self.cost = cost
        self._streams = streams
        self._batches: list[Batch] = []  # in their order; so many of the first are computed
        self._to_retry: dict[Batch, Sequence[Batch]] = {}  # parts of those that have failed

    @property
    def items(self) -> int:
        return sum(map(len, self._batches))

    @property
    def oldest(self) -> Batch | None:
        """The batch whose pass has been running for longest; None: none is."""
        return self._batches[0] if self._batches else None

    def since(self, now_s: float) -> float:
        """Return for how many seconds the oldest pass has been running; 0: none is."""
        return now_s - self._batches[0].started_s if self._batches else 0.0

    def add(self, batch: Batch) -> None:
        """The device has been given a batch, whose pass begins once it is free."""
        batch.is_ahead = len(self._batches) >= self._streams
        self._batches.append(batch)

    def remove(self, batch: Batch, now_s: float) -> None:
        """A pass has ended, and the next begins."""
        self._batches.remove(batch)
        for following in self._batches if self._streams == 1 else ():
            following.started_s = now_s
            if following.reason is not CloseReason.RETRY:
                # What it has waited for the device, it has waited in the queue.
                following.formed_s = now_s

    def retrying(self, batch: Batch, parts: Sequence[Batch]) -> None:
        """These parts of a batch that has failed are left to be computed."""
        if parts:
            self._to_retry[batch] = parts
        else:
            self._to_retry.pop(batch, None)

    def retry_nothing(self) -> None:
        """Whatever has failed is not tried again."""
        self._to_retry.clear()

    @property
    def ends_s(self) -> float:
        """When the pass that is running should end, after which a new batch can follow.

        Infinity: there is no telling, or what has failed comes next.
        """
        if len(self._batches) != 1 or self._to_retry:
            return math.inf
        (running,) = self._batches
        return math.inf if running.reason is CloseReason.RETRY else self._end_s(running)

    def busy_s(self, now_s: float) -> float:
        """Return how long no other batch should begin; what is overdue may go on as long."""
        running = self._batches[: self._streams]
        following_s = self._following_s() / self._streams
        if len(running) < self._streams:
            return following_s
        return min(abs(self._end_s(batch) - now_s) for batch in running) + following_s

    def _end_s(self, batch: Batch) -> float:
        return batch.started_s + self.cost.seconds(batch.bucket_key, len(batch))

    def _following_s(self) -> float:
        """What comes after the passes that are running."""
        if not (self._batches[self._streams :] or self._to_retry):
            return 0.0
        parts = [*self._batches[self._streams :], *chain.from_iterable(self._to_retry.values())]
        return sum(self.cost.seconds(part.bucket_key, len(part)) for part in parts)

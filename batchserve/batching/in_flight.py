"""What the device has been given: the batch that is computed, and what follows it."""

from collections.abc import Sequence
from itertools import chain

from batchserve.batch import Batch
from batchserve.batching.cost import Cost


class InFlight:
    """Batches between the queue and their answers.

    Args:
        cost: what passes take.
    """

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self._batches: list[Batch] = []  # in their order; the first one is computed
        self._to_retry: dict[Batch, Sequence[Batch]] = {}  # parts of those that have failed

    @property
    def items(self) -> int:
        return sum(map(len, self._batches))

    def since(self, now_s: float) -> float:
        """Return for how many seconds the pass that is running has been; 0: none is."""
        return now_s - self._batches[0].started_s if self._batches else 0.0

    def add(self, batch: Batch) -> None:
        """The device has been given a batch, whose pass begins once it is free."""
        self._batches.append(batch)

    def remove(self, batch: Batch, now_s: float) -> None:
        """A pass has ended, and the next begins."""
        self._batches.remove(batch)
        for following in self._batches:
            # What it has waited for the device, it has waited.
            following.formed_s = following.started_s = now_s

    def retrying(self, batch: Batch, parts: Sequence[Batch]) -> None:
        """These parts of a batch that has failed are left to be computed."""
        if parts:
            self._to_retry[batch] = parts
        else:
            self._to_retry.pop(batch, None)

    def retry_nothing(self) -> None:
        """Whatever has failed is not tried again."""
        self._to_retry.clear()

    def free_s(self, now_s: float) -> float:
        """Return when the device is expected to be free; a pass that is overdue ends any moment."""
        if not self._batches:
            return now_s + self._following_s()
        return max(now_s, self._end_s(self._batches[0])) + self._following_s()

    def busy_s(self, now_s: float) -> float:
        """Return for how long it should be reckoned with; what is overdue may go on as long."""
        if not self._batches:
            return self._following_s()
        return abs(self._end_s(self._batches[0]) - now_s) + self._following_s()

    def _end_s(self, batch: Batch) -> float:
        return batch.started_s + self.cost.seconds(batch.bucket_key, len(batch))

    def _following_s(self) -> float:
        """What comes after the pass that is running."""
        if not (self._batches[1:] or self._to_retry):
            return 0.0
        parts = [*self._batches[1:], *chain.from_iterable(self._to_retry.values())]
        return sum(self.cost.seconds(part.bucket_key, len(part)) for part in parts)

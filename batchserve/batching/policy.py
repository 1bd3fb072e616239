"""When to close a batch, and how large: pure decisions, with the time as an argument.

A policy is asked when the device is free, or nearly so. It neither waits nor reads a clock, so that
tests and simulations run exactly what production runs.
"""

import math
from typing import NamedTuple, Protocol

from batchserve.batch import Batch, CloseReason
from batchserve.batching.bucket import Bucket
from batchserve.batching.cost import Cost

# A timer may fire early by a rounding error.
TIMER_SLACK_S = 1e-6


class View(NamedTuple):
    """What a policy may know beside the bucket.

    Attributes:
        now_s: the time on the batcher's clock.
        free_since_s: when the device had finished the batch before.
        arriving: requests that are being read or decoded, whose items may still join.
        draining: nothing more is admitted.
        cost: of a pass.
        most: items that the device has memory for.
    """

    now_s: float
    free_since_s: float
    arriving: int
    draining: bool
    cost: Cost
    most: int


class Close(NamedTuple):
    """Close a batch now, with up to `most` items."""

    most: int
    reason: CloseReason


class Wait(NamedTuple):
    """Wait for news, but no longer than until `until_s`; infinity: as long as it takes."""

    until_s: float


class Policy(Protocol):
    """Decides for one bucket at a time.

    Attributes:
        max_batch_size: N.
        keeps_promises: whether a batch is kept so small that nothing in it becomes late.
    """

    max_batch_size: int
    keeps_promises: bool

    def decide(self, bucket: Bucket, view: View) -> Close | Wait:
        """Return what to do with this bucket, which is not empty."""
        ...

    def observe(self, batch: Batch) -> None:
        """Learn from a batch that has been computed."""
        ...


class FixedPolicy:
    """Close a batch when it is full or its oldest item has waited `max_wait_s`."""

    keeps_promises = False

    def __init__(self, max_batch_size: int, max_wait_s: float) -> None:
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s

    def decide(self, bucket: Bucket, view: View) -> Close | Wait:
        most = min(self.max_batch_size, view.most)
        if len(bucket) >= most:
            return Close(most, CloseReason.FULL)
        if view.draining:
            return Close(most, CloseReason.DRAIN)
        until_s = bucket.oldest.queued_s + self.max_wait_s
        if view.now_s >= until_s - TIMER_SLACK_S:
            return Close(most, CloseReason.WAIT)
        return Wait(until_s)

    def observe(self, batch: Batch) -> None:
        """Nothing is learned: N and T are what they are."""


class AdaptivePolicy:
    """Close a batch as soon as waiting no longer pays.

    Never larger than the size with which the device is fastest per item. Never waits for company
    that cannot come, and for company that may come no longer than the time that sharing a pass
    would save: whoever waits so long has lost at most as much as by not waiting at all, as one
    who rents skis until the rent has reached their price (Karlin et al., 1988).

    Args:
        max_batch_size: N.
        max_wait_s: T; infinity: whatever pays.
    """

    keeps_promises = True

    def __init__(self, max_batch_size: int, max_wait_s: float = math.inf) -> None:
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s

    def decide(self, bucket: Bucket, view: View) -> Close | Wait:
        most = view.cost.limit(bucket.key, min(self.max_batch_size, view.most))
        if len(bucket) >= most:
            return Close(most, CloseReason.FULL)
        if view.draining:
            return Close(most, CloseReason.DRAIN)
        if view.arriving == 0:
            return Close(most, CloseReason.IDLE)
        until_s = self._pays_until(bucket, view)
        if view.now_s >= until_s - TIMER_SLACK_S:
            return Close(most, CloseReason.WAIT)
        return Wait(until_s)

    def observe(self, batch: Batch) -> None:
        """The cost learns; nothing is left to learn here."""

    def _pays_until(self, bucket: Bucket, view: View) -> float:
        cost, key, size = view.cost, bucket.key, len(bucket)
        oldest = bucket.oldest
        # While nothing is known, T is all there is to go by.
        saving_s = self.max_wait_s if self.max_wait_s < math.inf else 0.0
        if cost.is_known:
            apart = cost.seconds(key, size) + cost.seconds(key, 1)
            saving_s = max(0.0, apart - cost.seconds(key, size + 1))
        return min(
            oldest.queued_s + self.max_wait_s,
            # While the device was busy, nobody waited for company.
            max(oldest.queued_s, view.free_since_s) + saving_s,
            oldest.terms.due_s - cost.bound(key, size + 1),
        )


POLICIES: dict[str, type[FixedPolicy] | type[AdaptivePolicy]] = {
    "fixed": FixedPolicy,
    "adaptive": AdaptivePolicy,
}

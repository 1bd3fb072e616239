"""When to close a batch: pure decisions, with the time as an argument.

A policy is asked only while the device is free. It neither waits nor reads a clock, so that tests
and simulations run exactly what production runs.
"""

from collections.abc import Collection
from dataclasses import dataclass

from batchserve.batch import CloseReason
from batchserve.batching.bucket import Bucket

# A timer may fire early by a rounding error.
TIMER_SLACK_S = 1e-6


@dataclass(frozen=True, slots=True)
class QueueView:
    """What a policy may know.

    Attributes:
        now_s: the time on the batcher's clock.
        buckets: those with items in them.
        arriving: requests that are being read or decoded, whose items may still join.
        draining: nothing more is admitted.
    """

    now_s: float
    buckets: Collection[Bucket]
    arriving: int
    draining: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Close a batch now, with the oldest items of this bucket."""

    bucket: Bucket
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for news, but no longer than until `until_s`; None: as long as it takes."""

    until_s: float | None


class FixedPolicy:
    """Close a batch when it is full or its oldest item has waited `max_wait_s`."""

    def __init__(self, max_batch_size: int, max_wait_s: float) -> None:
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s

    def decide(self, view: QueueView) -> Close | Wait:
        """Serve the bucket whose head is the oldest of those that may close: none starves."""
        by_age = sorted(view.buckets, key=lambda bucket: bucket.oldest_s)
        for bucket in by_age:
            if reason := self._reason_to_close(bucket, view):
                return Close(bucket, reason)
        return Wait(by_age[0].oldest_s + self.max_wait_s if by_age else None)

    def _reason_to_close(self, bucket: Bucket, view: QueueView) -> CloseReason | None:
        if len(bucket) >= self.max_batch_size:
            return CloseReason.FULL
        if view.draining:
            return CloseReason.DRAIN
        if view.now_s - bucket.oldest_s >= self.max_wait_s - TIMER_SLACK_S:
            return CloseReason.WAIT
        return None


class AdaptivePolicy(FixedPolicy):
    """As fixed, but do not wait for company that cannot come: nobody is being read or decoded."""

    def _reason_to_close(self, bucket: Bucket, view: QueueView) -> CloseReason | None:
        reason = super()._reason_to_close(bucket, view)
        if reason is None and view.arriving == 0:
            return CloseReason.IDLE
        return reason


POLICIES = {"fixed": FixedPolicy, "adaptive": AdaptivePolicy}

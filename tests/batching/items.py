"""Items, buckets and schedulers without an event loop, for what is pure."""

from collections.abc import Hashable
from typing import Any

import torch

from batchserve.batch import Batch, Item, Priority, Terms
from batchserve.batching.bucket import Bucket
from batchserve.batching.policy import Wait
from batchserve.batching.scheduler import Scheduler

NEVER_S = 1e9
INTERACTIVE, NORMAL, BULK = Priority
TENSOR = torch.zeros(1)


class Answer:
    """As much of a future as the queue looks at."""

    def __init__(self) -> None:
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def cancel(self) -> None:
        self.is_done = True

    def set_exception(self, error: Exception) -> None:
        assert not self.is_done
        self.is_done = True


def item(
    request: Hashable = "request",
    queued_s: float = 0.0,
    *,
    key: Hashable = "key",
    due_s: float | None = None,
    deadline_s: float = NEVER_S,
    priority: Priority = NORMAL,
    alone: bool = False,
) -> Item:
    terms = Terms(deadline_s if due_s is None else due_s, deadline_s, priority)
    future: Any = Answer()
    return Item(TENSOR, key, request, terms, queued_s, future, alone)


def bucket_of(*items: Item) -> Bucket:
    made = Bucket(items[0].bucket_key)
    for each in items:
        made.append(each)
    return made


def put(scheduler: Scheduler, *items: Item) -> None:
    """Admit items, those of one request together."""
    by_request: dict[Hashable, list[Item]] = {}
    for each in items:
        by_request.setdefault(each.request, []).append(each)
    for request, its_items in by_request.items():
        scheduler.admit(request, its_items, 0.0)


def next_batch(scheduler: Scheduler, now_s: float = 0.0, arriving: int = 0) -> Batch:
    batch = scheduler.next_batch(now_s, arriving, draining=False)
    assert isinstance(batch, Batch)
    return batch


def compute(
    scheduler: Scheduler, batch: Batch, now_s: float, seconds: float, *, succeeded: bool = True
) -> float:
    """Let a pass take so long; return when it has ended."""
    batch.started_s = now_s
    scheduler.in_flight.add(batch)
    batch.forward_s = seconds
    scheduler.finished(batch, now_s + seconds, succeeded=succeeded)
    return now_s + seconds


def requests_of(batch: Batch) -> list[Hashable]:
    return [each.request for each in batch.items]


def serve_all(scheduler: Scheduler, now_s: float, seconds: float = 0.0) -> list[Batch]:
    """Compute batch after batch until nothing is left to do."""
    batches: list[Batch] = []
    while isinstance(batch := scheduler.next_batch(now_s, 0, draining=False), Batch):
        batches.append(batch)
        now_s = compute(scheduler, batch, now_s, seconds)
    assert isinstance(batch, Wait)
    return batches

"""The nouns that everybody shares: what a request asks for, an item, and the batch it travels in.

All times are seconds on one monotonic clock, the batcher's.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from batchserve.errors import DeadlineExceeded

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

    import torch

    from batchserve.errors import RequestError
    from batchserve.records import PassRecord


class Priority(IntEnum):
    """Who passes whom; 1 is the highest, as in the Open Inference Protocol."""

    INTERACTIVE = 1  # somebody sits and waits
    NORMAL = 2
    BULK = 3  # takes what the others leave, and a small share in any case


class CloseReason(StrEnum):
    """Why a batch was closed when it was."""

    FULL = "full"  # it holds max_batch_size items, or as many as the device is fastest with
    WAIT = "wait"  # its oldest item has waited long enough
    IDLE = "idle"  # the device is free and nobody else can join
    DEADLINE = "deadline"  # one item more would have made one in it late
    DRAIN = "drain"  # the server is shutting down
    RETRY = "retry"  # a part of a batch that failed


class Fault(StrEnum):
    """What went wrong with a forward pass, and was contained."""

    INPUT = "input"  # of one item, whatever its neighbours
    OUT_OF_MEMORY = "out_of_memory"  # the batch was too large for the device
    DEVICE_LOST = "device_lost"  # the device answers no more
    HUNG = "hung"  # the pass did not return


class Terms(NamedTuple):
    """What a request asks for.

    Attributes:
        due_s: when its answer is promised; later is late, but still an answer.
        deadline_s: an answer after this is worth nothing.
        priority: who it passes while it waits.
    """

    due_s: float
    deadline_s: float
    priority: Priority = Priority.NORMAL

    def postponed(self, seconds: float) -> Terms:
        """Return the same, promised for later, but for no later than the deadline."""
        if self.due_s == self.deadline_s:
            return self
        return self._replace(due_s=min(self.due_s + seconds, self.deadline_s))


@dataclass(slots=True, eq=False)
class Item:
    """One input on its way through the model.

    Attributes:
        tensor: the input, without the batch dimension.
        bucket_key: only items of one key can share a batch.
        request: whose item it is; requests take turns.
        terms: the request's.
        queued_s: when it was put on the queue; its wait counts from here.
        future: resolved with the output's row, or with an exception. Nothing is asked of it but
            `done`, `cancelled`, `exception`, `set_result`, `set_exception` and `cancel`.
        alone: it has failed before, and travels without neighbours.
        batch: the batch it travelled in, once it has left the queue.
    """

    tensor: torch.Tensor
    bucket_key: Hashable
    request: Hashable
    terms: Terms
    queued_s: float
    future: asyncio.Future[Any]
    alone: bool = False
    batch: Batch | None = None

    def fail(self, error: RequestError) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.future.done():
            # One for each: whoever catches it adds to its traceback.
            self.future.set_exception(copy(error))

    def expire(self) -> None:
        """Answer that it is too late."""
        self.fail(DeadlineExceeded("the deadline passed in the queue"))


@dataclass(slots=True, eq=False)
class Batch:
    """Items that share one forward pass.

    Attributes:
        items: of one bucket, in the order in which their turns came.
        reason: why it was closed.
        formed_s: when it was closed; what an item waited in the queue ends here.
        started_s: when its forward pass began.
        forward_s: how long the forward pass took; 0 until it is done.
        record: what is kept of it for its requests' traces.
        is_ahead: the device was given it before it was free.
        all_cores: nothing else was computed, waited or was being decoded when it was closed.
    """

    items: list[Item]
    reason: CloseReason
    formed_s: float
    started_s: float = 0.0
    forward_s: float = 0.0
    record: PassRecord | None = None
    is_ahead: bool = False
    all_cores: bool = False

    @property
    def bucket_key(self) -> Hashable:
        return self.items[0].bucket_key

    def __len__(self) -> int:
        return len(self.items)

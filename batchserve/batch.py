"""The nouns that everybody shares: an item, and the batch that it travels in.

All times are seconds on one monotonic clock, the batcher's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    import torch


class CloseReason(StrEnum):
    """Why a batch was closed when it was."""

    FULL = "full"  # it holds max_batch_size items
    WAIT = "wait"  # its oldest item has waited max_wait_ms
    IDLE = "idle"  # the device is free and nobody else can join
    DRAIN = "drain"  # the server is shutting down


@dataclass(slots=True, eq=False)
class Item:
    """One input on its way through the model.

    Attributes:
        tensor: the input, without the batch dimension.
        future: resolved with the output's row, or with an exception.
        queued_s: when it was put on the queue; its wait counts from here.
        deadline_s: an answer after this is worth nothing.
        batch: the batch it travelled in, once it has left the queue.
        bucket_key: only items of one shape and dtype can be stacked.
    """

    tensor: torch.Tensor
    future: asyncio.Future[Any]
    queued_s: float
    deadline_s: float
    batch: Batch | None = None
    bucket_key: tuple[tuple[int, ...], torch.dtype] = field(init=False)

    def __post_init__(self) -> None:
        self.bucket_key = tuple(self.tensor.shape), self.tensor.dtype


@dataclass(slots=True, eq=False)
class Batch:
    """Items that share one forward pass.

    Attributes:
        items: of one shape and dtype, in the order of their arrival.
        reason: why it was closed.
        formed_s: when it was closed; what an item waited in the queue ends here.
        forward_s: how long the forward pass took; 0 until it is done.
    """

    items: list[Item]
    reason: CloseReason
    formed_s: float
    forward_s: float = 0.0

    def __len__(self) -> int:
        return len(self.items)

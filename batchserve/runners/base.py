"""What the batcher knows of a runner."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class RowFault(Exception):
    """One item's own fault, in its row's place. The client reads the message."""


class OutOfMemory(Exception):
    """The memory did not suffice for this batch. All that the pass had taken has been freed."""


class DeviceLost(Exception):
    """The device answers no more; only a new process may get it back."""


class Runner(Protocol):
    """Runs forward passes.

    Attributes:
        name: for operators, as in `thread`.
        streams: how many passes it runs at the same time.
        holds_up_the_loop: nothing else happens during a pass.
        queues: takes the next batch while a pass is running, and begins with it by itself.
    """

    name: str
    streams: int
    holds_up_the_loop: bool
    queues: bool

    async def forward(
        self, tensors: Sequence["torch.Tensor"], *, all_cores: bool = False
    ) -> Sequence[Any]:
        """Return one row for each tensor, in order, or a `RowFault` in its place.

        Args:
            tensors: items of one bucket, without the batch dimension.
            all_cores: nobody else needs them meanwhile.

        Raises:
            OutOfMemory: a smaller batch may do.
            DeviceLost: no further pass will.
            Exception: whatever the model raised; no row is to be had.
        """
        ...

    def close(self) -> None:
        """Give back threads and whatever else is held, without waiting for a pass to end."""
        ...

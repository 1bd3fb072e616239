"""What the batcher knows of a runner."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class OutOfMemory(Exception):
    """The device's memory did not suffice for a batch; what the pass had taken is free again."""


class DeviceLost(Exception):
    """The device does not answer any more; only a new process helps."""


class Runner(Protocol):
    """Runs one forward pass at a time.

    Attributes:
        name: for operators, as in `thread`.
    """

    name: str

    async def forward(self, tensors: Sequence["torch.Tensor"]) -> Sequence[Any]:
        """Return one row for each tensor, in order.

        Args:
            tensors: items of one shape and dtype, without the batch dimension.

        Raises:
            Exception: whatever the model raised; no row is to be had.
        """
        ...

    def close(self) -> None:
        """Give back threads and whatever else is held."""
        ...

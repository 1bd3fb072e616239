"""What programs have in common: graphs that were fixed when they were made."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils._pytree import tree_map_only

from batchserve.errors import LoadError

VARIES = -1


@dataclass(frozen=True)
class Input:
    """A tensor that a program takes.

    Attributes:
        dtype: of its numbers.
        least: the smallest batch.
        most: the largest batch; None: any.
        item_shape: without the batch dimension, -1 where a size varies.
    """

    dtype: torch.dtype
    least: int
    most: int | None
    item_shape: tuple[int, ...]


class Program(torch.nn.Module):
    """A model whose precision and range of batch sizes nobody can change any more.

    A smaller batch than the smallest repeats its last item, and what comes of that is cut off.

    Args:
        inputs: the tensors that it takes, as far as the file tells.
        dtype: of its floating-point numbers; None: there is no telling.
    """

    def __init__(self, inputs: Sequence[Input], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.program_inputs = tuple(inputs)
        self.dtype = dtype
        self.least = max((taken.least for taken in inputs), default=1)
        limits = [taken.most for taken in inputs if taken.most is not None]
        self.largest_batch = min(limits, default=None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        rows = len(tensors[0]) if tensors and tensors[0].ndim else self.least
        if self.largest_batch is not None and rows > self.largest_batch:
            raise ValueError(f"a batch of {rows} is more than {self.largest_batch}, {self.limit}")
        if rows >= self.least:
            return self.run(args, kwargs)

        def padded(tensor: torch.Tensor) -> torch.Tensor:
            return torch.cat([tensor, tensor[-1:].expand(self.least - rows, *tensor.shape[1:])])

        def cut(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[:rows] if tensor.ndim else tensor

        padded_args, padded_kwargs = tree_map_only(torch.Tensor, padded, (args, kwargs))
        return tree_map_only(torch.Tensor, cut, self.run(padded_args, padded_kwargs))

    @property
    def limit(self) -> str:
        """Where the largest batch comes from, and how there would be none."""
        return (
            "the largest batch that it was exported for; export it with "
            'dynamic_shapes=({0: torch.export.Dim("batch")},) for batches of any size'
        )

    @abstractmethod
    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it on a batch of a size that it takes."""

    @abstractmethod
    def place(self, device: torch.device) -> None:
        """Move it to a device.

        Raises:
            LoadError: it was made for another.
        """

    def train(self, mode: bool = True) -> Self:
        """Leave it as it is: what training would change is fixed in the graph."""
        return self


def check_batch(module: torch.nn.Module, max_batch_size: int | None) -> None:
    """Raise if batches of that size are too large for a module.

    Raises:
        LoadError: it is a program for smaller ones.
    """
    largest = largest_batch(module)
    if isinstance(module, Program) and max_batch_size and largest and max_batch_size > largest:
        raise LoadError(
            f"batching.max_batch_size: {max_batch_size} is more than {largest}, {module.limit}"
        )


def largest_batch(module: torch.nn.Module) -> int | None:
    """Return the largest batch that a module can take; None: any."""
    return module.largest_batch if isinstance(module, Program) else None

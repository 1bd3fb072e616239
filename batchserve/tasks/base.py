"""What a task is: from one input to one item, and from one output row to JSON."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from batchserve.config import ModelConfig
from batchserve.tasks.payloads import from_rows, spec_of
from batchserve.tasks.tensors import TensorSpec


class Parameters(BaseModel):
    """What a request may say in its query string; a task adds fields of its own."""

    model_config = ConfigDict(extra="forbid")


class Task(ABC):
    """Decodes inputs, prepares and finishes batches, encodes rows.

    `decode` and `encode` see one item and run wherever it suits the server, several at a time;
    `collate` makes a batch of items; `preprocess` and `postprocess` see one, on the device. With
    `parallel_batches: true`, these three run for several batches at a time, too.

    Attributes:
        Input: the type of X in `{"input": X}`, as pydantic and OpenAPI know it.
        Output: the type of Y in `{"output": Y}`, likewise.
        Parameters: what the query string may say.
        media_types: of a body that is one raw input; `image/*` stands for all images.
        inline_bytes: bodies below this size are decoded on the event loop, because a hand-over to
            a thread (about 100 µs) would cost more; 0: none is.
        arrays: whether `decode` also takes numpy arrays of numbers, and an output row is a tensor,
            so that binary forms can hold both.
        finite_rows: whether NaN or infinity in an answer is a failure, of that one item.
    """

    Input: ClassVar[Any] = Any
    Output: ClassVar[Any] = Any
    Parameters: ClassVar[type[BaseModel]] = Parameters
    media_types: ClassVar[tuple[str, ...]] = ()
    inline_bytes: ClassVar[int] = 0
    arrays: ClassVar[bool] = False
    finite_rows: ClassVar[bool] = False

    @property
    def input_dims(self) -> int | None:
        """How many dimensions an input has as an array; None: that varies."""
        return None

    @property
    def flat_floats(self) -> bool:
        """Whether an input is a list of fractions, which `decode` also takes as float64."""
        return False

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes that a row has scores for, if it has."""
        return None

    @property
    def fixed_shape(self) -> bool:
        """Whether every item has the example's shape, so that its cost tells that of all."""
        return False

    @classmethod
    def from_config(cls, config: ModelConfig, module: torch.nn.Module) -> Self:
        """Make the task for this model; `module` is loaded, and in fp32 on the CPU."""
        return cls()

    @abstractmethod
    def decode(self, payload: Any) -> torch.Tensor:
        """Turn X, or the bytes of a raw body, into an item without the batch dimension.

        Raises:
            InvalidInput: with what is wrong and what would be right.
            TooLarge: it is larger than is accepted.
        """

    @abstractmethod
    def encode(self, row: Any, parameters: Any) -> Any:
        """Turn one output row, on the CPU, into Y.

        Args:
            row: as `postprocess` left it, without the batch dimension.
            parameters: an instance of this class's `Parameters`.
        """

    def bucket_key(self, item: torch.Tensor) -> Hashable:
        """Return what an item has in common with those that it can share a batch with."""
        return item.shape, item.dtype

    def collate(self, items: Sequence[torch.Tensor]) -> Any:
        """Make one batch of items that share a `bucket_key`, on the CPU.

        Returns:
            A tensor, a tuple of tensors (the module's positional arguments) or a dict of them (its
            keyword arguments). The first dimension of each is the batch's.
        """
        return torch.stack(list(items))

    def preprocess(self, batch: Any) -> Any:
        """Prepare what `collate` made, on the device."""
        return batch

    def postprocess(self, output: Any) -> Any:
        """Finish the model's output, on the device."""
        return output

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Return the tensors of a request where inputs are named tensors: one, unless overridden.

        It is called `input`; `Input` tells what it holds.
        """
        return (spec_of(type(self)),)

    def payloads(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Sequence[Any]:
        """Return a payload for each item of a request whose inputs are named tensors.

        Args:
            tensors: those that `input_specs` names. The first dimension is the request's items,
                of whatever shape and datatype they are; BYTES are an array of bytes objects.

        Returns:
            What `decode` takes; or, all of them, what it returns, where nothing is left to decode.

        Raises:
            InvalidInput: with what is wrong and what would be right.
        """
        (spec,) = self.input_specs()
        return from_rows(type(self), tensors[spec.name])

    def example(self) -> torch.Tensor | None:
        """Return an item to warm up with, or None if there is no telling."""
        return None

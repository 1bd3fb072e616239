"""A batch's way to the device, and its answers' way back: on CUDA, without the host waiting twice.

torch waits at each copy between the device and usual memory. From and to pinned memory, which
stays where it is, the device copies by itself, in the order of the pass's own stream; so a pass is
handed over whole, and waited for once. torch keeps pinned memory that is free again for the next
pass, and gives none away that the device still reads or writes
(https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers). Rows therefore
stay what they are for as long as somebody holds them.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from batchserve.runners.nested import mapped
from batchserve.tasks.base import Task

logger = logging.getLogger(__name__)

NOTHING = nullcontext()


class Lane(Protocol):
    """A stream of a device, and memory that its copies need not be waited for."""

    def entered(self) -> AbstractContextManager[Any]:
        """Queue on it whatever is done within, after what this thread has queued before."""
        ...

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor on the host."""
        ...

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Queue a copy; from usual memory it is waited for."""
        ...

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Queue a copy to new pinned memory, which holds nothing before `wait`."""
        ...

    def wait(self) -> None:
        """Return when all that was queued is done, without holding the GIL meanwhile.

        Raises:
            RuntimeError: something of it has failed on the device.
        """
        ...


class Transfer:
    """As torch does it by itself: a copy after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def entered(self) -> AbstractContextManager[Any]:
        """Return what a pass happens in."""
        return NOTHING

    def batch(self, task: Task, items: Sequence[torch.Tensor]) -> Any:
        """Collate items, and return the batch on the device."""
        batch = task.collate(items)
        return batch if self._device.type == "cpu" else mapped(self._to_device, batch)

    def answers(self, output: Any) -> Any:
        """Return an output where rows are made of it."""
        return output

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)


class Streamed(Transfer):
    """On a lane of its own, by way of pinned memory for as long as there is some."""

    def __init__(self, device: torch.device, lane: Lane) -> None:
        super().__init__(device)
        self._lane = lane
        self._pins = True

    def entered(self) -> AbstractContextManager[Any]:
        return self._lane.entered()

    def batch(self, task: Task, items: Sequence[torch.Tensor]) -> Any:
        if self._pins:
            try:
                return mapped(self._to_device, self._collated(task, items))
            except PinningError as error:
                self._pin_no_more(error)
        return super().batch(task, items)

    def answers(self, output: Any) -> Any:
        if self._pins:
            try:
                fetched = mapped(lambda tensor: self._lane.to_host(tensor.detach()), output)
            except RuntimeError as error:
                self._pin_no_more(error)
            else:
                self._lane.wait()
                return fetched
        # Here and not where rows are made: that is another stream, which would not wait.
        return mapped(lambda tensor: tensor.detach().cpu(), output)

    def _pin_no_more(self, error: Exception) -> None:
        self._pins = False
        logger.warning("pinned memory is not used any more: %s", error)

    def _collated(self, task: Task, items: Sequence[torch.Tensor]) -> Any:
        """Return a batch in pinned memory, if its task does no more than stack."""
        if not stacks(task, items):
            return mapped(self._as_pinned, task.collate(items))
        return torch.stack(
            list(items), out=self._pinned((len(items), *items[0].shape), items[0].dtype)
        )

    def _as_pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "cpu":
            return tensor
        return self._pinned(tensor.shape, tensor.dtype).copy_(tensor)

    def _pinned(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        try:
            return self._lane.pinned(shape, dtype)
        except (RuntimeError, MemoryError) as error:
            raise PinningError(str(error)) from error

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._lane.to_device(tensor)


class PinningError(Exception):
    """There is no pinned memory; usual memory will do."""


class CudaLane:
    """A CUDA stream of a pass's own, so that passes of other models need not be waited for.

    Raises:
        RuntimeError: CUDA does not give one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def entered(self) -> AbstractContextManager[Any]:
        # Weights were moved, and put in order, on the stream of whoever loaded them.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._stream)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        # Non-blocking, this is to pinned memory.
        return tensor.to("cpu", non_blocking=True)

    def wait(self) -> None:
        self._stream.synchronize()


def transfer_for(
    device: torch.device, make_lane: Callable[[torch.device], Lane] = CudaLane
) -> Transfer:
    """Return how batches get to a device: streamed to CUDA, unless that is not to be had."""
    if device.type != "cuda":
        return Transfer(device)
    try:
        return Streamed(device, make_lane(device))
    except Exception as error:  # noqa: BLE001 - whatever it is, a pass works without
        logger.warning("%s: passes share the default stream: %s", device, error)
        return Transfer(device)


def stacks(task: Task, items: Sequence[torch.Tensor]) -> bool:
    """Whether a batch is its items stacked, and nothing else."""
    first = items[0]
    return type(task).collate is Task.collate and all(
        item.shape == first.shape and item.dtype == first.dtype and item.device.type == "cpu"
        for item in items
    )

"""One forward pass: collate, preprocess on the device, run, check, split into rows."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from batchserve.loading import Compiled, laid_out, lay_out
from batchserve.runners import device as devices
from batchserve.runners.base import DeviceLost, OutOfMemory, RowFault
from batchserve.runners.graphs import Graph, Graphs
from batchserve.runners.nested import mapped, tensors_in
from batchserve.runners.recordable import check_recordable
from batchserve.runners.transfer import Transfer, transfer_for
from batchserve.tasks.base import Task

logger = logging.getLogger(__name__)


class RowCountError(Exception):
    """The model's output has another number of rows than its input."""


class Forward:
    """A module as a plain function from items to rows.

    Args:
        module: in evaluation mode, on `device` and in `dtype`.
        task: what happens to a batch before and after the module.
        device: where the batch is moved to.
        dtype: what floating-point inputs are cast to.
        pad_to: rows of every batch: shorter ones repeat their last item, and what comes of that is
            cut off. A kernel is chosen, and work is split, by the size of a batch, and then sums
            are rounded otherwise: only in batches of one size has an item one answer to the bit.
        threads: cores that a pass may use; None: as many as torch is told to on this thread.
        channels_last: the order of images in memory, as the module's weights have it.
        device_answers: asked after a failure whether the device still does.
        transfer: how batches get to the device; None: as suits it.

    Attributes:
        threads: cores that a pass uses.
        all_threads: cores that a pass uses that has all to itself.
        streams: how many passes run at the same time.
        graphs: recorded passes to use; None: the module is called each time.
    """

    graphs: Graphs | None = None
    streams = 1

    def __init__(
        self,
        module: torch.nn.Module,
        task: Task,
        device: torch.device,
        dtype: torch.dtype,
        pad_to: int | None = None,
        threads: int | None = None,
        channels_last: bool = False,
        device_answers: Callable[[torch.device], bool] = devices.answers,
        transfer: Transfer | None = None,
    ) -> None:
        self._module = module
        self._task = task
        self._device = device
        self._dtype = dtype
        self.pad_to = pad_to
        self._device_answers = device_answers
        self._transfer = transfer or transfer_for(device)
        self.threads = self.all_threads = threads or torch.get_num_threads()
        self._channels_last = channels_last

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def on_cpu(self) -> bool:
        return self._device.type == "cpu"

    @property
    def rounding(self) -> float:
        """The relative error of a number in the pass's precision."""
        return torch.finfo(self._dtype).eps

    def lay_out(self, *, channels_last: bool) -> None:
        """Have images lie in memory in this order, in weights and inputs."""
        lay_out(self._module, channels_last=channels_last)
        self._channels_last = channels_last

    def compile_what_comes(self) -> None:
        """From now on, compile what is not compiled yet, if the module is to be compiled."""
        if isinstance(self._module, Compiled):
            self._module.compile_what_comes(fixed_shape=self._task.fixed_shape)

    @property
    def task(self) -> Task:
        """What happens to a batch before and after the module."""
        return self._task

    @property
    def fixed_shape(self) -> bool:
        """Whether all items have one shape."""
        return self._task.fixed_shape

    @property
    def module(self) -> torch.nn.Module:
        """What is called in each pass."""
        return self._module

    @property
    def may_compile(self) -> bool:
        return isinstance(self._module, Compiled)

    @property
    def packs_in_each_pass(self) -> bool:
        """Whether what is compiled may be faster with code for one size of batch."""
        is_compiled = isinstance(self._module, Compiled) and self._module.packs_in_each_pass
        return is_compiled and self.fixed_shape and self.pad_to is None

    def compile_apart(self, size: int) -> None:
        """Compile batches of so many items for themselves, once one comes."""
        if isinstance(self._module, Compiled):
            self._module.compile_apart(size)

    def compile_together(self, size: int) -> None:
        """Have batches of so many items use the same code as larger ones."""
        if isinstance(self._module, Compiled):
            self._module.compile_together(size)

    @property
    def channels_last(self) -> bool:
        """In which order images lie in memory."""
        return self._channels_last

    def run_as_it_is(self) -> None:
        """Use nothing that is compiled."""
        if isinstance(self._module, Compiled):
            self._module.run_as_it_is()

    def never_compile(self) -> None:
        """Have the module as it was before it was made to be compiled."""
        if isinstance(self._module, Compiled):
            self._module = self._module.module

    def settle(self) -> None:
        """Compile nothing more."""
        if isinstance(self._module, Compiled):
            self._module.settle()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Compile nothing meanwhile, so that several threads may call it."""
        with self._module.settled() if isinstance(self._module, Compiled) else nullcontext():
            yield

    @torch.inference_mode()
    def check_recordable(self, tensors: Sequence[torch.Tensor]) -> None:
        """Raise if what the module does with these items cannot be recorded.

        Raises:
            NotRecordable: why.
            Exception: whatever the module or the task raised.
        """
        module = self._module.module if isinstance(self._module, Compiled) else self._module
        with self._transfer.entered():
            check_recordable(partial(_call, module), self._inputs(tensors))

    @torch.inference_mode()
    def record(self, graphs: Graphs, tensors: Sequence[torch.Tensor]) -> Graph:
        """Record what the module does with a batch of so many items, once all else is chosen.

        Raises:
            NotRecordable: the module takes or returns something else than tensors.
            Exception: as recording raises.
        """
        with self._transfer.entered():
            return graphs.add(partial(_call, self._module), self._inputs(tensors))

    def __call__(self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False) -> list[Any]:
        """Return one row for each item, on the CPU, or a `RowFault` in its place.

        Args:
            tensors: the items, without the batch dimension.
            all_cores: nobody else needs them meanwhile.

        Raises:
            OutOfMemory: the memory did not suffice; what the pass had taken has been freed.
            DeviceLost: the pass failed, and the device answers no more.
            RowCountError: the module returned more or fewer rows than it was given.
            Exception: whatever the module or the task raised.
        """
        try:
            with torch.inference_mode():
                return self._pass(tensors, self.all_threads if all_cores else self.threads)
        except Exception as error:
            if not devices.ran_out_of_memory(error):
                self._check_device(error)
                raise
            reason = str(error)
        except BaseException as error:
            # A panic in an extension, or sys.exit: the server goes on, whatever the model does.
            raise RuntimeError(f"the model raised {error!r}") from error
        # Only here, where the error is no more, are its traceback's frames and their tensors gone.
        devices.give_memory_back(self._device)
        raise OutOfMemory(
            f"the memory does not suffice for a batch of {len(tensors)} on {self._device}: {reason}"
        )

    def _pass(self, tensors: Sequence[torch.Tensor], threads: int) -> list[Any]:
        # OpenMP's number of threads is each thread's own, and each model's.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        items = self._padded(tensors)
        with self._transfer.entered():
            output = self._task.postprocess(self._output(self._inputs(items)))
            output = self._transfer.answers(output)
        rows = rows_of(output, len(items))[: len(tensors)]
        # Once for the batch: an operation for each row would ask for the GIL each time.
        if self._task.finite_rows and not is_finite(output):
            return without_infinities(rows)
        return rows

    def _padded(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.pad_to is None:
            return list(tensors)
        if len(tensors) > self.pad_to:
            raise ValueError(f"{len(tensors)} items are more than the {self.pad_to} of every batch")
        return [*tensors, *[tensors[-1]] * (self.pad_to - len(tensors))]

    def _inputs(self, items: Sequence[torch.Tensor]) -> Any:
        """Return what the module is called with."""
        batch = self._transfer.batch(self._task, items)
        return mapped(self._as_the_module_takes_it, self._task.preprocess(batch))

    def _output(self, inputs: Any) -> Any:
        if self.graphs is not None:
            try:
                output = self.graphs(inputs)
            except Exception as error:  # noqa: BLE001 - whatever it is, there is another way
                self.graphs = None
                logger.warning("CUDA graphs are not used any more: %s", error)
            else:
                if output is not None:
                    return output
        return _call(self._module, inputs)

    def _as_the_module_takes_it(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        cast = tensor if tensor.dtype is self._dtype else tensor.to(self._dtype)
        return laid_out(cast, channels_last=self._channels_last)

    def _check_device(self, error: Exception) -> None:
        if self._device.type != "cpu" and not self._device_answers(self._device):
            raise DeviceLost(f"{self._device} answers no more") from error


def _call(module: torch.nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def rows_of(output: Any, count: int) -> list[Any]:
    """Split a batched output into rows: a tensor, or tuples, lists and mappings of them.

    Raises:
        RowCountError: a tensor in it has not `count` rows.
        TypeError: something in it is no tensor.
    """
    if isinstance(output, torch.Tensor):
        if output.ndim == 0 or output.shape[0] != count:
            raise RowCountError(
                f"the model was given {count} rows and returned a tensor of shape "
                f"{tuple(output.shape)}; its first dimension must be {count}"
            )
        # One transfer for the batch; bf16 and fp16 mean nothing outside torch.
        output = output.detach().cpu()
        return list((output.float() if output.is_floating_point() else output).unbind())
    if isinstance(output, Mapping):
        columns = {name: rows_of(column, count) for name, column in output.items()}
        return [{name: rows[i] for name, rows in columns.items()} for i in range(count)]
    if isinstance(output, tuple | list):
        parts = [rows_of(part, count) for part in output]
        return [[rows[i] for rows in parts] for i in range(count)]
    raise TypeError(f"the model returned {type(output).__name__}, which is no tensor")


def without_infinities(rows: list[Any]) -> list[Any]:
    """Put a `RowFault` in the place of each row that holds NaN or infinity."""
    fault = RowFault("the model's answer to this input is not finite (NaN or infinity)")
    return [row if is_finite(row) else fault for row in rows]


def is_finite(output: Any) -> bool:
    """Whether no tensor in an output holds NaN or infinity."""
    # A finite sum has finite terms, and costs a fifth; one that is not may just have overflowed.
    return all(
        math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())
        for tensor in tensors_in(output)
    )

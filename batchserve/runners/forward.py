"""One forward pass: stack, preprocess on the device, run, check, split into rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from batchserve.tasks.base import Task


class RowCountError(Exception):
    """The model's output has another number of rows than its input."""


class Forward:
    """A module as a plain function from items to rows.

    Args:
        module: in evaluation mode, on `device` and in `dtype`.
        task: what happens to a batch before and after the module.
        device: where the batch is moved to.
        dtype: what floating-point inputs are cast to.
    """

    def __init__(
        self, module: torch.nn.Module, task: Task, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._module = module
        self._task = task
        self._device = device
        self._dtype = dtype

    @torch.inference_mode()
    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Return one row for each item, on the CPU.

        Raises:
            RowCountError: the module returned more or fewer rows than it was given.
            Exception: whatever the module or the task raised.
        """
        # OpenMP's number of threads is each thread's own; torch sets it when it is first asked.
        torch.get_num_threads()
        batch = torch.stack(list(tensors)).to(self._device, non_blocking=True)
        inputs = self._task.preprocess(batch)
        if inputs.is_floating_point():
            inputs = inputs.to(self._dtype)
        output = self._task.postprocess(self._module(inputs))
        return rows_of(output, len(tensors))


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
        return list(output.float() if output.is_floating_point() else output)
    if isinstance(output, Mapping):
        columns = {name: rows_of(column, count) for name, column in output.items()}
        return [{name: rows[i] for name, rows in columns.items()} for i in range(count)]
    if isinstance(output, tuple | list):
        parts = [rows_of(part, count) for part in output]
        return [[rows[i] for rows in parts] for i in range(count)]
    raise TypeError(f"the model returned {type(output).__name__}, which is no tensor")

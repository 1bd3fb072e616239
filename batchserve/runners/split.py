"""A batch in parts, each computed on a core of its own, at the same time.

Threads that share a pass wait for each other after each operation, and if one of them loses its
core for a moment, to the decoding of the next images or to another process, all others stand still.
Parts wait for each other once, at the end.
"""

import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from queue import SimpleQueue
from typing import Any

import torch

from batchserve.own_thread import keep_to_one_core
from batchserve.runners.nested import mapped, tensors_in

Compute = Callable[[Any], Any]
# The share of the cores' time that must be of use while the longest part is computed.
LEAST_BUSY = 0.75


class Split:
    """Computes a batch in as many parts as there are cores for it.

    Args:
        most: cores at most. A process does not wait for these threads when it ends.
    """

    def __init__(self, most: int) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        weakref.finalize(self, _end, self._jobs, most)
        for place in range(most):
            threading.Thread(
                target=_work, args=(self._jobs,), name=f"part-{place}", daemon=True
            ).start()

    def __call__(self, compute: Compute, inputs: Any, rows: int, cores: int) -> Any:
        """Return what `compute` makes of all inputs.

        Args:
            compute: the module, which takes its inputs as one, and returns a tensor.
            inputs: a tensor with so many rows, or a structure of such.
            rows: at least 1.
            cores: to use, each for one part.

        Raises:
            Exception: whatever one of the parts raised, once all have ended.
        """
        count = min(rows, cores)
        ends = [rows * place // count for place in range(count + 1)]
        jobs = [Job(compute, _part(inputs, slice(*part)), Future()) for part in pairwise(ends)]
        for job in jobs:
            self._jobs.put(job)
        try:
            wait([job.future for job in jobs])
            outputs = list(map(Future.result, [job.future for job in jobs]))
        finally:
            # An error's traceback holds this frame.
            del jobs, job
        sizes = [end - begin for begin, end in pairwise(ends)]
        if [*map(_rows_of, outputs)] == sizes and len({*map(_kind_of, outputs)}) == 1:
            return torch.cat(outputs)
        # What comes of a row depends on the others, as where all are cut to the longest.
        return compute(inputs)


def pays(rows: int, cores: int) -> bool:
    """Whether so many rows can be shared out with few cores left idle while others compute."""
    return cores > 1 and rows >= LEAST_BUSY * math.ceil(rows / cores) * cores


@dataclass(frozen=True, slots=True)
class Job:
    """A part of a batch."""

    compute: Compute
    inputs: Any
    future: "Future[torch.Tensor]"

    def run(self) -> None:
        try:
            with torch.inference_mode():
                self.future.set_result(self.compute(self.inputs))
        except BaseException as error:  # noqa: BLE001 - the thread goes on, whatever the model does
            self.future.set_exception(error)
        finally:
            # An error's traceback holds this frame, and so the future that holds the error.
            del self


def _rows_of(output: Any) -> int:
    return len(output) if torch.is_tensor(output) and output.ndim else 0


def _kind_of(output: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return output.shape[1:], output.dtype


def has_rows(value: Any, rows: int) -> bool:
    """Whether there are tensors in it, each with so many rows."""
    tensors = [*tensors_in(value)]
    return bool(tensors) and all(tensor.ndim and len(tensor) == rows for tensor in tensors)


def _part(inputs: Any, rows: slice) -> Any:
    return mapped(itemgetter(rows), inputs)


def _work(jobs: SimpleQueue[Job | None]) -> None:
    keep_to_one_core()
    while (job := jobs.get()) is not None:
        job.run()
        # Nothing of a batch shall be held while the next one is waited for.
        del job


def _end(jobs: SimpleQueue[Job | None], count: int) -> None:
    for _ in range(count):
        jobs.put(None)

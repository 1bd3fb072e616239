"""A batch in parts, each computed on a core of its own, at the same time.

Threads that share a pass wait for each other after each operation, and if one of them loses its
core for a moment, to the decoding of the next images or to another process, all others stand still.
Parts wait for each other once, at the end.
"""

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

from batchserve.runners.nested import mapped, tensors_in

Compute = Callable[[Any], Any]


class Split:
    """Computes a batch in as many parts as there are cores for it.

    Args:
        most: cores at most. A process does not wait for these threads when it ends.
    """

    def __init__(self, most: int) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        for place in range(most):
            threading.Thread(
                target=_work, args=(self._jobs,), name=f"part-{place}", daemon=True
            ).start()
        weakref.finalize(self, _end, self._jobs, most)

    def __call__(self, compute: Compute, inputs: Any, rows: int, cores: int) -> torch.Tensor:
        """Return what `compute` makes of all inputs.

        Args:
            compute: the module, which takes its inputs as one, and returns a tensor.
            inputs: a tensor with so many rows, or a structure of such.
            rows: at least 1.
            cores: to use for them all together.

        Raises:
            Exception: whatever one of the parts raised, once all have ended.
        """
        count = min(rows, cores)
        parts, threads = _parts(inputs, rows, count), cores // count
        jobs = [Job(compute, part, threads, Future()) for part in parts]
        for job in jobs:
            self._jobs.put(job)
        wait([job.future for job in jobs])
        return torch.cat([job.future.result() for job in jobs])


@dataclass(frozen=True, slots=True)
class Job:
    """A part, and on how many threads it is computed."""

    compute: Compute
    inputs: Any
    threads: int
    future: "Future[torch.Tensor]"

    def run(self) -> None:
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                self.future.set_result(self.compute(self.inputs))
        except BaseException as error:  # noqa: BLE001 - the thread goes on, whatever the model does
            self.future.set_exception(error)


def has_rows(value: Any, rows: int) -> bool:
    """Whether there are tensors in it, each with so many rows."""
    tensors = [*tensors_in(value)]
    return bool(tensors) and all(tensor.ndim and len(tensor) == rows for tensor in tensors)


def _parts(inputs: Any, rows: int, count: int) -> list[Any]:
    ends = [rows * place // count for place in range(count + 1)]
    return [mapped(itemgetter(slice(begin, end)), inputs) for begin, end in pairwise(ends)]


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        # Nothing of a batch shall be held while the next one is waited for.
        del job


def _end(jobs: SimpleQueue[Job | None], count: int) -> None:
    for _ in range(count):
        jobs.put(None)

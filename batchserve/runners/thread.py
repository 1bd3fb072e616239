"""Forward passes on threads of their own, so that the loop goes on reading and answering."""

import asyncio
import atexit
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic
from typing import Any
from weakref import WeakSet

import torch

from batchserve.runners.forward import Forward

# How long the interpreter's end waits for threads that have been told to end.
LAST_S = 2.0

_ending: WeakSet[threading.Thread] = WeakSet()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a pass: rows, or what it raised."""

    rows: list[Any]
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A pass that `future` waits for, on its own loop."""

    tensors: Sequence[torch.Tensor]
    all_cores: bool
    future: asyncio.Future[Outcome]

    def run(self, forward: Forward) -> None:
        if self.future.cancelled():
            return
        outcome = _outcome(forward, self)
        # If the loop is closed, nobody waits any more.
        with suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


class ThreadRunner:
    """Runs passes on a thread for each stream, which a process does not wait for when it ends.

    A pass that hangs on its device would otherwise keep the process from ever ending.

    Args:
        forward: the pass, which says how many streams there are.
    """

    name = "thread"
    holds_up_the_loop = False

    def __init__(self, forward: Forward) -> None:
        self.streams = forward.streams
        # Where there are several, others compute while one waits for its next batch.
        self.queues = self.streams == 1
        self._queues: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in range(self.streams)]
        self._given = [0] * self.streams
        self._closed = False
        self._threads = [
            threading.Thread(target=_work, args=(forward, jobs), name="forward", daemon=True)
            for jobs in self._queues
        ]
        for thread in self._threads:
            thread.start()

    async def forward(
        self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
    ) -> list[Any]:
        if self._closed:
            raise RuntimeError("the runner is closed")
        job = Job(tensors, all_cores, asyncio.get_running_loop().create_future())
        # OpenMP keeps threads for each thread that ever used several cores: one shall be enough.
        stream = 0 if all_cores else self._given.index(min(self._given))
        self._given[stream] += 1
        self._queues[stream].put(job)
        try:
            outcome = await job.future
        finally:
            self._given[stream] -= 1
        if outcome.error is not None:
            raise outcome.error
        return outcome.rows

    def close(self) -> None:
        """End the threads once their passes are done, without waiting for that."""
        self._closed = True
        _ending.update(self._threads)
        for jobs in self._queues:
            jobs.put(None)


@atexit.register
def wait_for_ending() -> None:
    """Let threads that are about to end do so before the interpreter does, unless a pass hangs.

    The last thing that one does may be to free its model. If the interpreter ends meanwhile, the
    thread is ended in torch's native code, which ends the process with SIGABRT.
    """
    give_up_s = monotonic() + LAST_S
    for thread in list(_ending):
        thread.join(max(0.0, give_up_s - monotonic()))


def _work(forward: Forward, jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run(forward)
        # Nothing of a batch shall be held while the next one is waited for.
        del job


def _outcome(forward: Forward, job: Job) -> Outcome:
    try:
        return Outcome(forward(job.tensors, all_cores=job.all_cores))
    except BaseException as error:  # noqa: BLE001 - the thread goes on, whatever the model does
        return Outcome([], error)

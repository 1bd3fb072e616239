"""The forward pass on a thread of its own, so that the loop goes on reading and answering."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch

from batchserve.runners.forward import Forward


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a pass: rows, or what it raised."""

    rows: list[Any]
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A pass that `future` waits for, on its own loop."""

    tensors: Sequence[torch.Tensor]
    future: asyncio.Future[Outcome]

    def run(self, forward: Forward) -> None:
        if self.future.cancelled():
            return
        outcome = _outcome(forward, self.tensors)
        # If the loop is closed, nobody waits any more.
        with suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


class ThreadRunner:
    """Runs each pass on one thread, which a process does not wait for when it ends.

    A pass that hangs on its device would otherwise keep the process from ever ending.
    """

    name = "thread"
    holds_up_the_loop = False
    queues = True

    def __init__(self, forward: Forward) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = False
        threading.Thread(
            target=_work, args=(forward, self._jobs), name="forward", daemon=True
        ).start()

    async def forward(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        if self._closed:
            raise RuntimeError("the runner is closed")
        job = Job(tensors, asyncio.get_running_loop().create_future())
        self._jobs.put(job)
        outcome = await job.future
        if outcome.error is not None:
            raise outcome.error
        return outcome.rows

    def close(self) -> None:
        """End the thread once its pass is done, without waiting for that."""
        self._closed = True
        self._jobs.put(None)


def _work(forward: Forward, jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run(forward)
        # Nothing of a batch shall be held while the next one is waited for.
        del job


def _outcome(forward: Forward, tensors: Sequence[torch.Tensor]) -> Outcome:
    try:
        return Outcome(forward(tensors))
    except BaseException as error:  # noqa: BLE001 - the thread goes on, whatever the model does
        return Outcome([], error)

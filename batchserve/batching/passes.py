"""Computes one batch after the other, and confines what goes wrong to the items that are guilty.

A batch that fails is halved, and the halves are tried again, until the guilty are alone: at most
2·log₂N further passes for each of them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from batchserve.batch import Batch, CloseReason, Fault, Item
from batchserve.batching.quarantine import REFUSED, Quarantine
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import ModelFailed
from batchserve.runners.base import DeviceLost, OutOfMemory, Runner
from batchserve.runners.fingerprint import fingerprint

logger = logging.getLogger(__name__)


class Passes:
    """Runs forward passes and resolves the futures of their items.

    Args:
        name: for logs.
        scheduler: is told when a pass begins and ends.
        runner: runs the pass.
        on_batch: called with each batch that is over: every item is in exactly one.
        on_fault: called with what went wrong, each time.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        runner: Runner,
        on_batch: Callable[[Batch], None],
        on_fault: Callable[[Fault], None],
        clock: Callable[[], float],
    ) -> None:
        self.runner = runner
        self._name = name
        self._scheduler = scheduler
        self._on_batch = on_batch
        self._on_fault = on_fault
        self._clock = clock
        self._quarantine = Quarantine()

    def check_past(self, items: Sequence[Item], now_s: float) -> Sequence[Item]:
        """Return the items to compute; those that have failed alone twice fail at once.

        Whoever did so once is marked to travel alone.
        """
        self._quarantine.forget(now_s)
        if not self._quarantine:
            return items
        for item in items:
            offences = self._quarantine.offences(fingerprint(item.tensor), now_s)
            item.alone = offences > 0
            if offences >= REFUSED:
                item.fail(
                    ModelFailed("the model has failed on this very input twice; not tried again")
                )
        return [item for item in items if not item.future.done()]

    async def compute(self, batch: Batch) -> None:
        """Resolve every item of a batch.

        Raises:
            DeviceLost: nothing more can be computed; unresolved items are left.
        """
        parts = [batch]
        while parts:
            part = self._alive(parts.pop())
            self._scheduler.in_flight.retrying(batch, parts)
            if not part.items:
                continue
            closed_s = max(part.formed_s, self._clock())
            if len(part) > self._scheduler.memory.of(part.bucket_key, closed_s):
                # Memory has run out with a smaller one meanwhile.
                parts += _halves(part)
                continue
            outcome = await self._forward(part)
            if isinstance(outcome, Exception):
                parts += self._halve(part, outcome)
            else:
                self._resolve(part, outcome)

    def _alive(self, batch: Batch) -> Batch:
        """Leave out whom nobody waits for any more."""
        if batch.reason is not CloseReason.RETRY:
            return batch  # formed just now
        now_s = self._clock()
        for item in batch.items:
            if item.terms.deadline_s <= now_s:
                item.expire()
        batch.items = [item for item in batch.items if not item.future.done()]
        return batch

    async def _forward(self, batch: Batch) -> Sequence[Any] | Exception:
        # If another is computed still, both are set anew when that is over.
        batch.started_s = self._clock()
        for item in batch.items:
            item.batch = batch
        self._scheduler.in_flight.add(batch)
        outcome = await self._rows_of(batch)
        now_s = self._clock()
        batch.forward_s = now_s - batch.started_s
        self._scheduler.finished(batch, now_s, succeeded=not isinstance(outcome, Exception))
        return outcome

    async def _rows_of(self, batch: Batch) -> Sequence[Any] | Exception:
        tensors = [item.tensor for item in batch.items]
        try:
            rows = await self.runner.forward(tensors, all_cores=batch.all_cores)
            if len(rows) != len(tensors):
                return ValueError(f"{len(rows)} rows came back for {len(tensors)} items")
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a model may raise any
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # Whatever the runner makes of it, it is over.
                raise asyncio.CancelledError from None
            return error if isinstance(error, Exception) else RuntimeError("it was cancelled")
        return rows

    def _resolve(self, batch: Batch, rows: Sequence[Any]) -> None:
        self._quarantine.succeeded(self._clock())
        for item, row in zip(batch.items, rows, strict=True):
            if isinstance(row, Exception):
                self.tell(Fault.INPUT)
                item.fail(ModelFailed(str(row)))
            elif not item.future.done():
                item.future.set_result(row)
            if item.alone:
                self._quarantine.absolve(fingerprint(item.tensor))
        self._report(batch)

    def _halve(self, batch: Batch, error: Exception) -> list[Batch]:
        """Return the parts to try after a batch has failed; none if there is one suspect only."""
        if isinstance(error, DeviceLost):
            raise error
        logger.error(
            "%s: a forward pass of %d items failed: %s",
            self._name, len(batch), error, exc_info=error,
        )  # fmt: skip
        if isinstance(error, OutOfMemory):
            self.tell(Fault.OUT_OF_MEMORY)
            self._scheduler.memory.ran_out(batch.bucket_key, len(batch), self._clock())
        if len(batch) == 1:
            self._convict(batch, error)
            return []
        return _halves(batch)

    def _convict(self, batch: Batch, error: Exception) -> None:
        """The item of this batch has failed, and alone."""
        (item,) = batch.items
        self.tell(Fault.INPUT)
        self._quarantine.blame(fingerprint(item.tensor), self._clock())
        what = "ran out of memory" if isinstance(error, OutOfMemory) else "failed"
        item.fail(
            ModelFailed(
                f"the model {what} on this input ({type(error).__name__}); the server's log has "
                f"the traceback"
            )
        )
        self._report(batch)

    def tell(self, fault: Fault) -> None:
        """Have a fault counted; whatever that comes to, it is no other fault."""
        try:
            self._on_fault(fault)
        except Exception:
            logger.exception("%s: a fault could not be counted", self._name)

    def _report(self, batch: Batch) -> None:
        try:
            self._on_batch(batch)
        except Exception:
            logger.exception("%s: a batch could not be counted", self._name)


def _halves(batch: Batch) -> list[Batch]:
    middle = len(batch) // 2
    halves = batch.items[middle:], batch.items[:middle]
    return [Batch(half, CloseReason.RETRY, batch.formed_s) for half in halves]

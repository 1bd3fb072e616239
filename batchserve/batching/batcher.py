"""The batcher: one coroutine that collects items, runs them in batches and resolves their futures.

It waits and acts; what goes next, and who is let in, is decided by the `Scheduler`, which holds
everything that waits.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from batchserve.batch import Batch, CloseReason, Fault, Item, Terms
from batchserve.batching.quarantine import REFUSED, Quarantine
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    ModelFailed,
    NotReady,
    RequestError,
)
from batchserve.runners.base import DeviceLost, OutOfMemory, Runner
from batchserve.runners.fingerprint import fingerprint

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Turns of the event loop in which requests that lie in the socket buffers are parsed and their
# handlers start: one turn to read, one to run what the reading woke, and that once more for the
# clients who answer at once to the batch before.
TURNS_TO_LET_IN = 3
# A hung pass is noticed late by this share of the time it is given.
WATCH_SHARE = 0.25


def shape_and_dtype(tensor: "torch.Tensor") -> Hashable:
    """What two items must have in common to be stacked."""
    return tuple(tensor.shape), tensor.dtype


class Arrival(AbstractContextManager["Arrival"]):
    """A request, from its head to its answer; until its `submit`, others may wait for it.

    Leaving the context takes everything back that has not been computed.
    """

    def __init__(self, batcher: "Batcher", terms: Terms, arrived_s: float) -> None:
        self._batcher = batcher
        self.terms = terms
        self.arrived_s = arrived_s
        self.items: list[Item] = []

    def reserve(self, count: int) -> None:
        """Hold places for so many items, before the work of decoding them.

        Raises:
            TooLarge: they could never fit in the queue.
            QueueFull: they do not fit in it now.
            Overloaded: they would be answered too late.
        """
        self._batcher.reserve(self, count)

    def submit(self, tensors: Sequence["torch.Tensor"]) -> list[Item]:
        """Put one item for each tensor on the queue, into the places that are held for them."""
        self.items = self._batcher.put(self, tensors)
        return self.items

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._batcher.leave(self)


class Batcher:
    """Batches the items of one model version.

    Args:
        name: for logs, as in `resnet:1`.
        scheduler: holds what waits and decides what goes next.
        runner: runs the forward pass.
        bucket_key: items for which it returns the same can share a batch.
        on_batch: called with each batch after its forward pass.
        on_fault: called with what went wrong, each time.
        hang_s: a forward pass that takes longer never returns.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        runner: Runner,
        bucket_key: Callable[["torch.Tensor"], Hashable] = shape_and_dtype,
        on_batch: Callable[[Batch], None] = lambda _: None,
        on_fault: Callable[[Fault], None] = lambda _: None,
        hang_s: float = math.inf,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self.clock = clock
        self.scheduler = scheduler
        self.runner = runner
        self.lost: str | None = None  # why this process cannot go on
        self._bucket_key = bucket_key
        self._on_batch, self._on_fault = on_batch, on_fault
        self._hang_s = hang_s
        self._quarantine = Quarantine()
        self._arriving: set[Arrival] = set()
        self._computing: Batch | None = None
        self._draining = False
        self._news: asyncio.Future[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        scheduler.on_expired = _expire

    # What handlers call.

    def arrival(self, terms: Terms) -> Arrival:
        """Announce a request before its body is read.

        Raises:
            Draining: the server is shutting down.
            NotReady: this process is about to be replaced.
            QueueFull: there is no place for even one item.
            Overloaded: it would be answered too late.
        """
        if self._draining:
            raise Draining("the server is shutting down; another one will answer")
        if self.lost:
            raise NotReady(f"{self.name} is being replaced: {self.lost}")
        now_s = self.clock()
        self.scheduler.check(1, terms, now_s)
        arrival = Arrival(self, terms, now_s)
        self._arriving.add(arrival)
        return arrival

    def reserve(self, arrival: Arrival, count: int) -> None:
        """Hold places: see `Arrival.reserve`."""
        arrival.terms = self.scheduler.terms_for(count, arrival.terms)
        self.scheduler.check(count, arrival.terms, self.clock())
        self.scheduler.hold(arrival, count, arrival.terms.priority)

    def put(self, arrival: Arrival, tensors: Sequence["torch.Tensor"]) -> list[Item]:
        """Put items on the queue, all of them: see `Arrival.submit`."""
        loop = asyncio.get_running_loop()
        now_s = self.clock()
        items = [
            Item(
                tensor, self._bucket_key(tensor), arrival, arrival.terms, now_s,
                loop.create_future(),
            )
            for tensor in tensors
        ]  # fmt: skip
        self.scheduler.admit(arrival, self._without_refused(items, now_s), arrival.arrived_s)
        self._arriving.discard(arrival)
        self._wake()
        return items

    def leave(self, arrival: Arrival) -> None:
        """Nothing more comes of this request, and nobody waits for what is left of it."""
        self._arriving.discard(arrival)
        self.scheduler.withdraw(arrival, arrival.items)
        self._wake()

    # What the owner calls.

    def start(self) -> None:
        self._loop = asyncio.create_task(self.run(), name=f"batcher {self.name}")
        self._loop.add_done_callback(self._on_end)
        if self._hang_s < math.inf:
            self._watch = asyncio.create_task(self._watch_passes(), name=f"watch {self.name}")

    def drain(self) -> None:
        """Admit nothing more, and wait for nobody any more."""
        self._draining = True
        self._wake()

    async def close(self) -> None:
        """End the loop; what is still unanswered gets `Draining`."""
        self.drain()
        tasks = [task for task in (self._loop, self._watch) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.runner.close()

    @property
    def running(self) -> bool:
        """Whether the loop is there to serve; readiness asks this."""
        return self._loop is not None and not self._loop.done() and self.lost is None

    @property
    def queued(self) -> int:
        """Items that wait for a forward pass."""
        return self.scheduler.queued

    @property
    def in_flight(self) -> int:
        """Items in the forward pass that is running."""
        return self.scheduler.running

    def __repr__(self) -> str:
        return f"<Batcher {self.name} | {self.queued} queued, {self.in_flight} in flight>"

    # The loop.

    async def run(self) -> None:
        """Collect, forward, resolve, for ever. Nothing that an item does can end this."""
        while self.lost is None:
            try:
                batch = self._computing = await self._collect()
                await self._compute(batch)
            except Exception:
                logger.exception("%s: a bug in batchserve; everything that waits gets 500", self)
                self._fail_everything(InternalError("the batcher failed; this is a bug"))
            self._computing = None

    async def _collect(self) -> Batch:
        while True:
            for _ in range(TURNS_TO_LET_IN):
                await asyncio.sleep(0)
            decision = self.scheduler.next_batch(
                self.clock(), len(self._arriving), draining=self._draining
            )
            if isinstance(decision, Batch):
                return decision
            await self._wait_for_news(decision.until_s)

    async def _compute(self, batch: Batch) -> None:
        """Resolve every item. A batch that fails is halved until the guilty items are alone."""
        parts = [batch]
        while parts and self.lost is None:
            part = self._alive(parts.pop())
            if not part.items:
                continue
            outcome = await self._forward(part)
            if isinstance(outcome, Exception):
                parts += self._halve(part, outcome)
            else:
                self._resolve(part, outcome)

    async def _forward(self, batch: Batch) -> Sequence[Any] | Exception:
        batch.started_s = self.clock()
        for item in batch.items:
            item.batch = batch
        self.scheduler.started(batch)
        outcome: Sequence[Any] | Exception
        try:
            outcome = await self.runner.forward([item.tensor for item in batch.items])
            if len(outcome) != len(batch):
                outcome = ValueError(f"{len(outcome)} rows came back for {len(batch)} items")
        except (Exception, asyncio.CancelledError) as error:
            if self._loop is not None and self._loop.cancelling():
                raise
            outcome = error if isinstance(error, Exception) else RuntimeError("it was cancelled")
        now_s = self.clock()
        batch.forward_s = now_s - batch.started_s
        self.scheduler.finished(batch, now_s, succeeded=not isinstance(outcome, Exception))
        return outcome

    def _resolve(self, batch: Batch, rows: Sequence[Any]) -> None:
        for item, row in zip(batch.items, rows, strict=True):
            if isinstance(row, Exception):
                self._on_fault(Fault.INPUT)
                self._fail([item], ModelFailed(str(row)))
            elif not item.future.done():
                item.future.set_result(row)
            if item.alone:
                self._quarantine.absolve(fingerprint(item.tensor))
        self._report(batch)

    def _halve(self, batch: Batch, error: Exception) -> list[Batch]:
        """Return the parts to try after a batch has failed; none if nobody else can be guilty."""
        if isinstance(error, DeviceLost):
            self._lose(Fault.DEVICE_LOST, f"the device does not answer any more ({error})")
            return []
        if isinstance(error, OutOfMemory):
            self._on_fault(Fault.OUT_OF_MEMORY)
            self.scheduler.memory.ran_out(batch.bucket_key, len(batch), self.clock())
        logger.error(
            "%s: a forward pass of %d items failed: %s", self, len(batch), error, exc_info=error
        )
        if len(batch) == 1:
            self._convict(batch, error)
            return []
        middle = len(batch) // 2
        halves = batch.items[middle:], batch.items[:middle]
        return [Batch(half, CloseReason.RETRY, batch.formed_s) for half in halves]

    def _convict(self, batch: Batch, error: Exception) -> None:
        """The item of this batch has failed, and alone."""
        self._quarantine.blame(fingerprint(batch.items[0].tensor), self.clock())
        self._on_fault(Fault.INPUT)
        what = "ran out of memory" if isinstance(error, OutOfMemory) else "failed"
        reason = ModelFailed(
            f"the model {what} on this input ({type(error).__name__}); the server's log has the "
            f"traceback"
        )
        self._fail(batch.items, reason)
        self._report(batch)

    # The parts of it.

    async def _wait_for_news(self, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        timer = None
        if until_s < math.inf:
            timer = loop.call_later(max(0.0, until_s - self.clock()), self._wake)
        try:
            await self._news
        finally:
            self._news = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _without_refused(self, items: Sequence[Item], now_s: float) -> list[Item]:
        """Mark the items that have failed before; fail and leave out those that did so twice."""
        if not self._quarantine:
            return list(items)
        for item in items:
            offences = self._quarantine.offences(fingerprint(item.tensor), now_s)
            item.alone = offences > 0
            if offences >= REFUSED:
                known = "the model has failed on this very input twice; it is not tried again"
                self._fail([item], ModelFailed(known))
        return [item for item in items if not item.future.done()]

    def _alive(self, batch: Batch) -> Batch:
        """Leave out whom nobody waits for any more."""
        now_s = self.clock()
        for item in batch.items:
            if item.terms.deadline_s <= now_s:
                _expire(item)
        batch.items = [item for item in batch.items if not item.future.done()]
        return batch

    def _report(self, batch: Batch) -> None:
        try:
            self._on_batch(batch)
        except Exception:
            logger.exception("%s: a batch could not be counted", self)

    async def _watch_passes(self) -> None:
        """Notice a pass that never returns; one on the loop's own thread, Gunicorn notices."""
        while self.lost is None:
            await asyncio.sleep(WATCH_SHARE * self._hang_s)
            if self.scheduler.running_since(self.clock()) > self._hang_s:
                self._lose(Fault.HUNG, f"a forward pass has not returned for {self._hang_s:g} s")

    def _lose(self, fault: Fault, reason: str) -> None:
        """Nothing will be computed any more: answer everybody, so that the process can go."""
        self.lost = reason
        logger.critical("%s: %s", self, reason)
        if self._computing is not None:
            self._fail(self._computing.items, DeadlineExceeded(f"not computed: {reason}"))
        self._fail_everything(NotReady(f"{self.name} is being replaced: {reason}"))
        self._on_fault(fault)

    def _on_end(self, loop: asyncio.Task[None]) -> None:
        """Leave nobody waiting for a loop that is no more; readiness tells that it has ended."""
        if self._draining:
            error: RequestError = Draining("the server was stopped before this was computed")
        else:
            self.lost = self.lost or "the batching loop has ended"
            error = InternalError(self.lost)
        self._fail_everything(error)

    def _fail_everything(self, error: RequestError) -> None:
        computing = self._computing.items if self._computing else []
        self._fail([*computing, *self.scheduler.take_all()], error)
        self._computing = None

    @staticmethod
    def _fail(items: Sequence[Item], error: RequestError) -> None:
        for item in items:
            if not item.future.done():
                # One for each: whoever catches it adds to its traceback.
                item.future.set_exception(copy(error))


def _expire(item: Item) -> None:
    if not item.future.done():
        item.future.set_exception(DeadlineExceeded("the deadline passed in the queue"))

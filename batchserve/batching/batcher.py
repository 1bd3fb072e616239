"""The batcher: a loop that collects items, runs them in batches and resolves their futures.

It waits and acts; what goes next, and who is let in, is decided by the `Scheduler`, which holds
everything that waits.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from batchserve.batch import Batch, Fault, Item, Terms
from batchserve.batching.passes import Passes
from batchserve.batching.policy import Wait
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    NotReady,
    RequestError,
)
from batchserve.runners.base import DeviceLost, Runner

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MakeFuture = Callable[[], "asyncio.Future[Any]"]

# Turns of the event loop in which requests that lie in the socket buffers are parsed and their
# handlers start: one turn to read, one to run what the reading woke, and that once more for the
# clients who answer at once to the batch before.
TURNS_TO_LET_IN = 3
# So long before the device is free, the next batch is handed to it, if that is full by then: who
# comes later could not join it. In the meantime the loop may be busy.
LEAD_S = 0.01
# How often one that is being emptied is looked at.
LOOK_S = 0.05
# A hung pass is noticed late by this share of the time it is given.
WATCH_SHARE = 0.25


def shape_and_dtype(tensor: "torch.Tensor") -> Hashable:
    """What two items must have in common to be stacked."""
    return tensor.shape, tensor.dtype


class Arrival(AbstractContextManager["Arrival"]):
    """A request, from its head to its answer; until its `submit`, others may wait for it.

    Leaving the context takes everything back that has not been computed.
    """

    def __init__(self, batcher: "Batcher", terms: Terms, arrived_s: float) -> None:
        self._batcher = batcher
        self.terms = terms
        self.arrived_s = arrived_s
        self.read_s = arrived_s  # when its body had been read, and its decoding began
        self.items: list[Item] = []

    def reserve(self, count: int) -> None:
        """Hold places for so many items, before the work of decoding them.

        Raises:
            TooLarge: they could never fit in the queue.
            QueueFull: they do not fit in it now.
            Overloaded: they would be answered too late.
        """
        self._batcher.reserve(self, count)

    def submit(
        self, tensors: Sequence["torch.Tensor"], make_future: MakeFuture | None = None
    ) -> list[Item]:
        """Put one item for each tensor on the queue, into the places that are held for them.

        Args:
            tensors: what was decoded.
            make_future: makes what an item's row arrives in; None: the event loop's futures.
        """
        make_future = make_future or asyncio.get_running_loop().create_future
        self.items = self._batcher.put(self, tensors, make_future)
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
        self.lost: str | None = None  # why this process cannot go on
        self._bucket_key = bucket_key
        self.passes = Passes(name, scheduler, runner, on_batch, on_fault, clock)
        self._hang_s = hang_s
        self._arriving: set[Arrival] = set()
        self._computing: set[Batch] = set()
        self._collecting = asyncio.Lock()
        self._heeds_newcomers = True  # what a lane waits for is not only the time
        self._draining = False
        self._news: asyncio.Future[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

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
        self._check_alive()
        now_s = self.clock()
        self.scheduler.check(1, terms, now_s)
        arrival = Arrival(self, terms, now_s)
        self._arriving.add(arrival)
        return arrival

    def reserve(self, arrival: Arrival, count: int) -> None:
        """Hold places: see `Arrival.reserve`."""
        arrival.read_s = self.clock()
        # A promise does not count what the client took to send its request.
        upload_s = arrival.read_s - arrival.arrived_s
        arrival.terms = self.scheduler.terms_for(count, arrival.terms.postponed(upload_s))
        self.scheduler.check(count, arrival.terms, arrival.read_s)
        self.scheduler.hold(arrival, count, arrival.terms.priority)

    def put(
        self,
        arrival: Arrival,
        tensors: Sequence["torch.Tensor"],
        make_future: MakeFuture,
    ) -> list[Item]:
        """Put items on the queue, all of them: see `Arrival.submit`."""
        self._check_alive()
        now_s, terms, key = self.clock(), arrival.terms, self._bucket_key
        items = [
            Item(tensor, key(tensor), arrival, terms, now_s, make_future()) for tensor in tensors
        ]
        self.scheduler.admit(arrival, self.passes.check_past(items, now_s), now_s - arrival.read_s)
        self._arriving.discard(arrival)
        self._wake_for_newcomer()
        return items

    def leave(self, arrival: Arrival) -> None:
        """Nothing more comes of this request, and nobody waits for what is left of it."""
        self.scheduler.withdraw(arrival, arrival.items)
        if arrival in self._arriving:
            self._arriving.remove(arrival)
            # Whoever waited for it need not any longer.
            self._wake_for_newcomer()

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

    async def wait_empty(self) -> None:
        """Return once nobody is in it any more; best after `drain`."""
        while not self.idle:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """End the loop; what is still unanswered gets `Draining`."""
        self.drain()
        tasks = [task for task in (self._loop, self._watch) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.runner.close()

    @property
    def runner(self) -> Runner:
        return self.passes.runner

    @property
    def running(self) -> bool:
        """Whether the loop is there to serve; readiness asks this."""
        return self._loop is not None and not self._loop.done() and self.lost is None

    @property
    def idle(self) -> bool:
        """Whether nothing arrives, waits or is computed."""
        return not (self._arriving or self.queued or self._computing)

    @property
    def queued(self) -> int:
        """Items that wait for a forward pass."""
        return self.scheduler.queued

    @property
    def in_flight(self) -> int:
        """Items that the device has been given."""
        return self.scheduler.in_flight.items

    def __repr__(self) -> str:
        return f"<Batcher {self.name} | {self.queued} queued, {self.in_flight} in flight>"

    # The loop.

    async def run(self) -> None:
        """Serve for ever: while lanes have a batch computed, another collects the next."""
        # A second lane costs a turn of the loop for each batch: much, where passes are short.
        count = self.runner.streams + self.runner.queues
        lanes = [asyncio.create_task(self._serve()) for _ in range(count)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()

    async def _serve(self) -> None:
        """Collect, forward, resolve, for ever. Nothing that an item does can end this."""
        while self.lost is None:
            try:
                await self._serve_one()
            except DeviceLost as error:
                self._lose(Fault.DEVICE_LOST, f"the device does not answer any more ({error})")
            except Exception:
                logger.exception("%s: a bug in batchserve; everything that waits gets 500", self)
                self._fail_everything(InternalError("the batcher failed; this is a bug"))
            self._wake()

    async def _serve_one(self) -> None:
        async with self._collecting:
            batch = await self._collect()
            if batch is None:
                return
            self._computing.add(batch)
        await self.passes.compute(batch)
        self._computing.discard(batch)

    async def _collect(self) -> Batch | None:
        """Return the next batch, when the device is free or nearly so; None: it is lost."""
        while self.lost is None:
            is_busy = len(self._computing) >= self.runner.streams
            decision = self._ahead() if is_busy else await self._next()
            if isinstance(decision, Batch):
                return decision
            await self._wait_for_news(decision.until_s)
        return None

    async def _next(self) -> Batch | Wait:
        # Nobody needs to be let in where a full batch waits already; but whom the batch before
        # has answered shall not wait for the end of this one.
        is_full = self.scheduler.holds_full_batch(self.clock())
        turns = self.runner.holds_up_the_loop if is_full else TURNS_TO_LET_IN
        for _ in range(turns):
            await asyncio.sleep(0)
        return self._ask(self.clock())

    def _ahead(self) -> Batch | Wait:
        """Decide whether the device is given a batch before it is done with the one before."""
        now_s = self.clock()
        ends_s = self.scheduler.in_flight.ends_s if self.runner.queues else math.inf
        from_s = ends_s - LEAD_S
        # Nobody knows when a pass ends that is overdue, and what is given cannot be taken back.
        if not from_s <= now_s <= ends_s + LEAD_S:
            self._heeds_newcomers = False
            return Wait(from_s if now_s < from_s else math.inf)
        decision = self._ask(max(now_s, ends_s), only_full=True)
        return decision if isinstance(decision, Batch) else Wait(math.inf)

    def _ask(self, free_s: float, *, only_full: bool = False) -> Batch | Wait:
        self._heeds_newcomers = True
        return self.scheduler.next_batch(
            free_s, len(self._arriving), draining=self._draining, only_full=only_full
        )

    # The parts of it.

    def _check_alive(self) -> None:
        if self.lost:
            raise NotReady(f"{self.name} is being replaced: {self.lost}")
        if self._loop is not None and self._loop.done():
            raise Draining("the server has shut down; another one will answer")

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

    def _wake_for_newcomer(self) -> None:
        if self._heeds_newcomers:
            self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _watch_passes(self) -> None:
        """Notice a pass that never returns; one on the loop's own thread, Gunicorn notices."""
        while self.lost is None:
            await asyncio.sleep(WATCH_SHARE * self._hang_s)
            if self.scheduler.in_flight.since(self.clock()) > self._hang_s:
                self._give_up_pass(f"a forward pass has not returned for {self._hang_s:g} s")

    def _give_up_pass(self, reason: str) -> None:
        late = DeadlineExceeded(f"not computed: {reason}")
        hung = self.scheduler.in_flight.oldest
        for item in hung.items if hung else []:
            item.fail(late)
        self._lose(Fault.HUNG, reason)

    def _lose(self, fault: Fault, reason: str) -> None:
        """Nothing will be computed any more: answer everybody, so that the process can go."""
        if self.lost is not None:
            return
        self.lost = reason
        self.passes.tell(fault)
        logger.critical("%s: %s", self, reason)
        self._fail_everything(NotReady(f"{self.name} is being replaced: {reason}"))
        self._wake()

    def _on_end(self, loop: asyncio.Task[None]) -> None:
        """Leave nobody waiting for a loop that is no more; readiness tells that it has ended."""
        if self._draining:
            error: RequestError = Draining("the server was stopped before this was computed")
        else:
            self.lost = self.lost or "the batching loop has ended"
            error = InternalError(self.lost)
        self._fail_everything(error)

    def _fail_everything(self, error: RequestError) -> None:
        computing = [item for batch in self._computing for item in batch.items]
        for item in [*computing, *self.scheduler.take_all()]:
            item.fail(error)
        self._computing.clear()

"""The batcher: one coroutine that collects items, runs them in batches and resolves their futures.

The mutable state is the queue of items that handlers put in, the buckets that the coroutine sorts
them into, the batch that the runner has, and the requests that are still arriving.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from batchserve.batch import Batch, Item
from batchserve.batching.bucket import Bucket
from batchserve.batching.cost import Cost
from batchserve.batching.policy import Close, FixedPolicy, QueueView
from batchserve.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    ModelFailed,
    QueueFull,
    RequestError,
    TooLarge,
)
from batchserve.runners.base import Runner

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Turns of the event loop in which requests that lie in the socket buffers are parsed and their
# handlers start: one turn to read, one to run what the reading woke, and that once more for the
# clients who answer at once to the batch before.
TURNS_TO_LET_IN = 3


class Arrival(AbstractContextManager["Arrival"]):
    """A request that is being read and decoded, and that others may wait for.

    Leaving the context without a `submit` gives everything up.

    Attributes:
        places: in the queue, held for this request's items.
    """

    def __init__(self, batcher: "Batcher") -> None:
        self._batcher = batcher
        self.places = 0

    def reserve(self, count: int) -> None:
        """Hold places for so many items, before the work of decoding them.

        Raises:
            TooLarge: they could never fit in the queue.
            QueueFull: they do not fit in it now.
        """
        self._batcher.check_room_for(count)
        self.places = count

    def submit(self, tensors: Sequence["torch.Tensor"], deadline_s: float) -> list[Item]:
        """Put one item for each tensor on the queue, into the places that are held for them."""
        items = self._batcher.put(tensors, deadline_s)
        self._batcher.leave(self)
        return items

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
        policy: decides when a batch is closed.
        runner: runs the forward pass.
        max_queue_size: items that may wait.
        on_batch: called with each batch after its forward pass.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        policy: FixedPolicy,
        runner: Runner,
        max_queue_size: int,
        on_batch: Callable[[Batch], None] = lambda _: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self.clock = clock
        self.cost = Cost()
        self._policy = policy
        self.runner = runner
        self._max_queue_size = max_queue_size
        self._on_batch = on_batch
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        self._buckets: dict[Any, Bucket] = {}
        self._batch: Batch | None = None
        self._arrivals: set[Arrival] = set()
        self._draining = False
        self._patience: asyncio.Timeout | None = None
        self._loop: asyncio.Task[None] | None = None

    # What handlers call.

    def arrival(self) -> Arrival:
        """Announce a request before its body is read.

        Raises:
            Draining: the server is shutting down.
            QueueFull: there is no place for even one item.
        """
        if self._draining:
            raise Draining("the server is shutting down; another one will answer")
        self.check_room_for(1)
        arrival = Arrival(self)
        self._arrivals.add(arrival)
        return arrival

    def check_room_for(self, count: int) -> None:
        """Raise if so many items do not fit in the queue: see `Arrival.reserve`."""
        if count > self._max_queue_size:
            raise TooLarge(
                f"{count} inputs in one request; at most max_queue_size={self._max_queue_size} "
                f"can ever wait, so send them in several requests"
            )
        if self._taken + count > self._max_queue_size:
            self._forget_cancelled()
        if self._taken + count > self._max_queue_size:
            raise QueueFull(
                f"{self._taken} of max_queue_size={self._max_queue_size} places are taken, and "
                f"{count} more are needed",
                retry_after_s=max(
                    1, math.ceil(self.cost.seconds_for(self._taken + self.in_flight))
                ),
            )

    def put(self, tensors: Sequence["torch.Tensor"], deadline_s: float) -> list[Item]:
        """Put items on the queue, all of them or none: see `Arrival.submit`."""
        loop = asyncio.get_running_loop()
        now_s = self.clock()
        items = [Item(tensor, loop.create_future(), now_s, deadline_s) for tensor in tensors]
        for item in items:
            self._queue.put_nowait(item)
        return items

    def leave(self, arrival: Arrival) -> None:
        """Nothing more comes of this arrival; whoever waited for it need not any longer."""
        if arrival in self._arrivals:
            self._arrivals.remove(arrival)
            self._nudge()

    # What the owner calls.

    def start(self) -> None:
        self._loop = asyncio.create_task(self.run(), name=f"batcher {self.name}")
        self._loop.add_done_callback(self._on_end)

    def drain(self) -> None:
        """Admit nothing more, and wait for nobody any more."""
        self._draining = True
        self._nudge()

    async def close(self) -> None:
        """End the loop; what is still unanswered gets `Draining`."""
        self.drain()
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self.runner.close()

    @property
    def running(self) -> bool:
        """Whether the loop is there to serve; readiness asks this."""
        return self._loop is not None and not self._loop.done()

    @property
    def queued(self) -> int:
        """Items that wait for a forward pass."""
        return self._queue.qsize() + sum(map(len, self._buckets.values()))

    @property
    def _taken(self) -> int:
        """Places in the queue: with an item in them, or held for one that is being decoded."""
        return self.queued + sum(arrival.places for arrival in self._arrivals)

    @property
    def in_flight(self) -> int:
        """Items in the forward pass that is running."""
        return len(self._batch) if self._batch else 0

    def __repr__(self) -> str:
        return f"<Batcher {self.name} | {self.queued} queued, {self.in_flight} in flight>"

    # The loop.

    async def run(self) -> None:
        """Collect, forward, resolve, for ever. Nothing that an item does can end this."""
        while True:
            try:
                self._batch = await self._collect()
                rows = await self._forward(self._batch)
                self._resolve(self._batch, rows)
            except Exception:
                logger.exception("%s: a bug in batchserve; everything that waits gets 500", self)
                self._fail_everything(InternalError("the batcher failed; this is a bug"))
            self._batch = None

    async def _collect(self) -> Batch:
        while True:
            await self._let_in()
            now_s = self.clock()
            self._forget_dead(now_s)
            view = QueueView(now_s, self._buckets.values(), len(self._arrivals), self._draining)
            decision = self._policy.decide(view)
            if isinstance(decision, Close):
                items = decision.bucket.pop(self._policy.max_batch_size)
                return Batch(items, decision.reason, now_s)
            await self._wait_for_news(decision.until_s)

    async def _forward(self, batch: Batch) -> Sequence[Any] | RequestError:
        for item in batch.items:
            item.batch = batch
        started_s = self.clock()
        try:
            rows = await self.runner.forward([item.tensor for item in batch.items])
            if len(rows) != len(batch):
                raise ValueError(f"{len(rows)} rows came back for {len(batch)} items")
        except (Exception, asyncio.CancelledError) as error:
            if self._loop is not None and self._loop.cancelling():
                raise
            logger.exception("%s: a forward pass of %d items failed", self, len(batch))
            return ModelFailed(
                f"the model failed on a batch of {len(batch)} with this input in it "
                f"({type(error).__name__}); the server's log has the traceback"
            )
        else:
            return rows
        finally:
            batch.forward_s = self.clock() - started_s

    def _resolve(self, batch: Batch, rows: Sequence[Any] | RequestError) -> None:
        if isinstance(rows, RequestError):
            self._fail(batch.items, rows)
        else:
            self.cost.observe(len(batch), batch.forward_s)
            for item, row in zip(batch.items, rows, strict=True):
                if not item.future.done():
                    item.future.set_result(row)
        try:
            self._on_batch(batch)
        except Exception:
            logger.exception("%s: a batch could not be counted", self)

    # The parts of it.

    async def _let_in(self) -> None:
        for _ in range(TURNS_TO_LET_IN):
            await asyncio.sleep(0)
        self._sort_all_in()

    async def _wait_for_news(self, until_s: float | None) -> None:
        delay_s = None if until_s is None else max(0.0, until_s - self.clock())
        try:
            async with asyncio.timeout(delay_s) as self._patience:
                self._sort_in(await self._queue.get())
        except TimeoutError:
            pass
        finally:
            self._patience = None

    def _nudge(self) -> None:
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    def _sort_in(self, item: Item) -> None:
        self._buckets.setdefault(item.bucket_key, Bucket()).append(item)

    def _sort_all_in(self) -> None:
        while not self._queue.empty():
            self._sort_in(self._queue.get_nowait())

    def _forget_dead(self, now_s: float) -> None:
        for bucket in self._buckets.values():
            expired = bucket.drop_dead(now_s)
            self._fail(expired, DeadlineExceeded("the deadline passed in the queue"))
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if len(bucket)}

    def _forget_cancelled(self) -> None:
        self._sort_all_in()
        self._forget_dead(self.clock())
        # What was sorted in is no news to the loop, should it be waiting for some.
        self._nudge()

    def _on_end(self, loop: asyncio.Task[None]) -> None:
        """Leave nobody waiting for a loop that is no more; readiness tells that it has ended."""
        self._fail_everything(
            Draining("the server was stopped before this was computed")
            if self._draining
            else InternalError("the batching loop has ended")
        )

    def _fail_everything(self, error: RequestError) -> None:
        self._sort_all_in()
        waiting = [bucket.pop(len(bucket)) for bucket in self._buckets.values()]
        in_flight = self._batch.items if self._batch else []
        self._fail([*in_flight, *itertools.chain.from_iterable(waiting)], error)
        self._buckets = {}
        self._batch = None

    @staticmethod
    def _fail(items: Sequence[Item], error: RequestError) -> None:
        for item in items:
            if not item.future.done():
                item.future.set_exception(error)

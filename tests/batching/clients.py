"""Requests to a batcher, as the handlers make them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch

from batchserve.batch import Batch, Priority, Terms
from batchserve.batching.batcher import Arrival, Batcher
from batchserve.batching.cost import Cost
from batchserve.batching.policy import AdaptivePolicy, Policy
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import DeadlineExceeded
from batchserve.runners.base import Runner
from batchserve.testing import FakeRunner

N, T_S, NEVER_S = 4, 0.010, 1e9
PATIENT = Terms(due_s=NEVER_S, deadline_s=NEVER_S)


@asynccontextmanager
async def batching(
    runner: Runner,
    policy: Policy | None = None,
    max_queue_size: int = 100,
    batches: list[Batch] | None = None,
    seed: Mapping[int, float] | None = None,
    **kwargs: Any,
) -> AsyncIterator[Batcher]:
    policy = policy or AdaptivePolicy(N, T_S)
    batcher = Batcher(
        "test:1",
        Scheduler(policy, Cost(policy.max_batch_size, seed), max_queue_size, runner.streams),
        runner,
        on_batch=(batches if batches is not None else []).append,
        clock=asyncio.get_running_loop().time,
        **kwargs,
    )
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()


def sizes(runner: FakeRunner) -> list[int]:
    """Return how many items each pass had, in order."""
    return [len(batch) for batch in runner.batches]


def check_empty(batcher: Batcher) -> None:
    """Nothing is left of any request."""
    assert repr(batcher) == f"<Batcher {batcher.name} | 0 queued, 0 in flight>"
    assert batcher._arriving == set()
    assert not batcher._computing
    check_scheduler_empty(batcher.scheduler)


def check_scheduler_empty(scheduler: Scheduler) -> None:
    """Nothing waits, and nothing is left of what did."""
    assert (scheduler.queued, scheduler.in_flight.items, scheduler.taken) == (0, 0, 0)
    assert scheduler._buckets == {}
    assert scheduler._held == {}


def submit(
    batcher: Batcher,
    *values: float,
    deadline_s: float = NEVER_S,
    due_s: float | None = None,
    priority: Priority = Priority.NORMAL,
) -> list[asyncio.Future[Any]]:
    """Put scalars on the queue as one request, which leaves as `submit_tensors` says."""
    terms = Terms(deadline_s if due_s is None else due_s, deadline_s, priority)
    return submit_tensors(batcher, [torch.tensor(value) for value in values], terms)


def submit_tensors(
    batcher: Batcher, tensors: Sequence[torch.Tensor], terms: Terms = PATIENT
) -> list[asyncio.Future[Any]]:
    """Ask as a handler does, which leaves when all is answered or its time is over."""
    arrival = batcher.arrival(terms)
    try:
        arrival.reserve(len(tensors))
        futures = [item.future for item in arrival.submit(tensors)]
    except BaseException:
        batcher.leave(arrival)
        raise
    leave_when_done(arrival, batcher)
    return futures


def leave_when_done(arrival: Arrival, batcher: Batcher) -> None:
    """Do what a handler's `with` and its timeout do."""
    futures = [item.future for item in arrival.items]
    waiting = set(futures)

    def time_is_over() -> None:
        batcher.leave(arrival)
        for future in futures:
            if not future.done():
                future.set_exception(DeadlineExceeded("the handler's time is over"))

    timer = None
    if arrival.terms.deadline_s < NEVER_S:
        timer = asyncio.get_running_loop().call_at(arrival.terms.deadline_s, time_is_over)

    def done(future: asyncio.Future[Any]) -> None:
        waiting.discard(future)
        if not future.cancelled():
            future.exception()  # the test may have left
        if not waiting:
            batcher.leave(arrival)
            if timer is not None:
                timer.cancel()

    for future in futures:
        future.add_done_callback(done)


async def answers_of(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Return the numbers that are answered, and the errors."""
    answers = await asyncio.gather(*futures, return_exceptions=True)
    return [answer.item() if isinstance(answer, torch.Tensor) else answer for answer in answers]


async def turns(count: int = 20) -> None:
    """Let everything happen that needs no time."""
    for _ in range(count):
        await asyncio.sleep(0)

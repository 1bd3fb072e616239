"""Requests to a batcher, as the handlers make them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch

from batchserve.batch import Batch, Priority, Terms
from batchserve.batching.batcher import Batcher
from batchserve.batching.cost import Cost
from batchserve.batching.policy import AdaptivePolicy, Policy
from batchserve.batching.scheduler import Scheduler
from batchserve.runners.base import Runner

N, T_S, NEVER_S = 4, 0.010, 1e9
PATIENT = Terms(due_s=NEVER_S, deadline_s=NEVER_S)


@asynccontextmanager
async def batching(
    runner: Runner,
    policy: Policy | None = None,
    max_queue_size: int = 100,
    batches: list[Batch] | None = None,
    **kwargs: Any,
) -> AsyncIterator[Batcher]:
    policy = policy or AdaptivePolicy(N, T_S)
    batcher = Batcher(
        "test:1",
        Scheduler(policy, Cost(policy.max_batch_size), max_queue_size),
        runner,
        on_batch=(batches if batches is not None else []).append,
        clock=asyncio.get_running_loop().time,
        **kwargs,
    )
    batcher.start()
    yield batcher
    await batcher.close()


def submit(
    batcher: Batcher,
    *values: float,
    deadline_s: float = NEVER_S,
    due_s: float | None = None,
    priority: Priority = Priority.NORMAL,
) -> list[asyncio.Future[Any]]:
    """Put scalars on the queue as one request, which leaves once none of them is waited for."""
    terms = Terms(deadline_s if due_s is None else due_s, deadline_s, priority)
    return submit_tensors(batcher, [torch.tensor(value) for value in values], terms)


def submit_tensors(
    batcher: Batcher, tensors: Sequence[torch.Tensor], terms: Terms = PATIENT
) -> list[asyncio.Future[Any]]:
    arrival = batcher.arrival(terms)
    try:
        arrival.reserve(len(tensors))
        futures = [item.future for item in arrival.submit(tensors)]
    except BaseException:
        batcher.leave(arrival)
        raise
    waiting = set(futures)

    def done(future: asyncio.Future[Any]) -> None:
        waiting.discard(future)
        if not waiting:
            batcher.leave(arrival)

    for future in futures:
        future.add_done_callback(done)
    return futures


async def turns(count: int = 20) -> None:
    """Let everything happen that needs no time."""
    for _ in range(count):
        await asyncio.sleep(0)

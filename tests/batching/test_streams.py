"""A runner that computes several batches at the same time is given as many."""

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from batchserve.batch import Batch, Fault, Priority, Terms
from batchserve.batching.cost import Cost
from batchserve.batching.in_flight import InFlight
from batchserve.batching.policy import AdaptivePolicy
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import DeadlineExceeded, ModelFailed, NotReady, Overloaded
from batchserve.testing import FakeRunner, run_virtual
from tests.batching.clients import NEVER_S, N, answers_of, batching, check_empty, submit, turns
from tests.batching.items import item, put

PASS_S = 1.0
SEED = {1: PASS_S, N: PASS_S}


class Streams(FakeRunner):
    """Notes when each pass begins and ends, and which of them had all cores."""

    def __init__(self, streams: int = 2, seconds: float = PASS_S, **kwargs: Any) -> None:
        super().__init__(lambda _: seconds, **kwargs)
        self.streams = streams
        self.spans: list[tuple[float, float]] = []
        self.all_cores: list[bool] = []

    async def forward(
        self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
    ) -> Sequence[Any]:
        now_s = asyncio.get_running_loop().time
        self.all_cores.append(all_cores)
        begun_s = now_s()
        try:
            return await super().forward(tensors)
        finally:
            self.spans.append((begun_s, now_s()))


def numbers(count: int) -> list[float]:
    return [float(number) for number in range(count)]


def test_as_many_batches_are_computed_at_the_same_time():
    async def main() -> None:
        runner, batches = Streams(2), list[Batch]()
        async with batching(runner, batches=batches, seed=SEED) as batcher:
            sent = numbers(3 * N)
            assert await answers_of(submit(batcher, *sent)) == sent
            await turns()
            check_empty(batcher)
        assert runner.spans == [(0.0, 1.0), (0.0, 1.0), (1.0, 2.0)]
        assert [(batch.started_s, batch.forward_s) for batch in batches] == [
            (0.0, PASS_S), (0.0, PASS_S), (1.0, PASS_S),
        ]  # fmt: skip
        assert not any(batch.is_ahead for batch in batches)

    run_virtual(main)


def test_whoever_comes_while_one_is_computed_need_not_wait_for_it():
    async def main() -> None:
        runner = Streams(2)
        async with batching(runner, seed=SEED) as batcher:
            answers = submit(batcher, 1.0)
            await asyncio.sleep(0.25)
            answers += submit(batcher, 2.0)
            await asyncio.sleep(0.25)
            answers += submit(batcher, 3.0)
            await asyncio.gather(*answers)
        assert runner.spans == [(0.0, 1.0), (0.25, 1.25), (1.0, 2.0)]

    run_virtual(main)


def test_a_batch_has_all_cores_only_if_nobody_else_needs_any():
    async def main() -> None:
        runner = Streams(2)
        async with batching(runner, seed=SEED) as batcher:
            await asyncio.gather(*submit(batcher, 1.0))
            assert runner.all_cores == [True]
            # More than a batch waits.
            await asyncio.gather(*submit(batcher, *numbers(N + 1)))
            assert runner.all_cores == [True, False, False]
            # Another one is being decoded.
            with batcher.arrival(Terms(NEVER_S, NEVER_S)):
                await asyncio.gather(*submit(batcher, 1.0))
            assert runner.all_cores[3:] == [False]

    run_virtual(main)


class Hangs(Streams):
    """Never returns from a pass that begins with a negative number."""

    async def forward(
        self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
    ) -> Sequence[Any]:
        if tensors[0] < 0:
            await asyncio.Event().wait()
        return await super().forward(tensors, all_cores=all_cores)


def fail_together(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
    """Answer those only that are alone."""
    if len(tensors) > 1:
        raise ValueError("one of them is bad")
    return tensors


def test_the_parts_of_a_batch_that_failed_share_the_cores():
    async def main() -> None:
        runner = Streams(2, rows=fail_together)
        async with batching(runner, seed=SEED) as batcher:
            assert await answers_of(submit(batcher, 1.0, 2.0)) == [1.0, 2.0]
            assert runner.all_cores == [True, False, False]

    run_virtual(main)


def test_a_stream_goes_on_while_the_other_looks_for_a_bad_input():
    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        if any(tensor < 0 for tensor in tensors):
            raise ValueError("negative")
        return tensors

    async def main() -> None:
        runner = Streams(2, rows=rows)
        async with batching(runner, seed=SEED) as batcher:
            bad = submit(batcher, -1.0, 1.0, 2.0, 3.0)
            await turns()
            good = submit(batcher, *numbers(2 * N))
            assert await answers_of(good) == numbers(2 * N)
            assert asyncio.get_running_loop().time() == 2 * PASS_S
            refused, *rest = await answers_of(bad)
            assert isinstance(refused, ModelFailed)
            assert rest == [1.0, 2.0, 3.0]
            await turns()
            check_empty(batcher)

    run_virtual(main)


def test_of_several_passes_the_one_that_hangs_is_given_up():
    async def main() -> None:
        faults: list[Fault] = []
        runner = Hangs(2)
        async with batching(runner, seed=SEED, hang_s=10.0, on_fault=faults.append) as batcher:
            hung = submit(batcher, -1.0)
            await turns()
            for number in numbers(9):
                assert await answers_of(submit(batcher, number)) == [number]
            (late,) = await answers_of(hung)
            assert "has not returned for 10 s" in str(late)
            assert faults == [Fault.HUNG]
            with pytest.raises(NotReady):
                submit(batcher, 1.0)

    run_virtual(main)


def test_a_batch_that_is_tried_in_parts_is_not_taken_for_one_that_hangs():
    async def main() -> None:
        runner = Hangs(2, seconds=4.0, rows=fail_together)
        async with batching(runner, seed=SEED, hang_s=10.0) as batcher:
            tried = submit(batcher, *numbers(N))
            await turns()
            hung = submit(batcher, -1.0)
            answers = await answers_of([*hung, *tried])
            # Whoever hung is too late, and the others may ask another worker.
            too_late = [isinstance(answer, DeadlineExceeded) for answer in answers]
            assert too_late == [True, *[False] * N]

    run_virtual(main)


# What a newcomer may expect.


def batch_of(count: int, started_s: float = 0.0) -> Batch:
    made = Batch([item(number) for number in range(count)], "full", started_s)  # type: ignore[arg-type]
    made.started_s = started_s
    return made


def test_nobody_waits_while_a_stream_is_free_and_then_for_the_first_that_will_be():
    in_flight = InFlight(Cost(N, SEED), streams=2)
    in_flight.add(batch_of(1, 0.0))
    assert in_flight.busy_s(0.25) == 0
    in_flight.add(second := batch_of(1, 0.25))
    assert not second.is_ahead
    assert in_flight.busy_s(0.25) == pytest.approx(0.75)
    in_flight.remove(second, 0.5)
    assert in_flight.busy_s(0.5) == 0
    assert in_flight.since(0.5) == 0.5


def test_a_pass_that_ends_does_not_begin_another_ones_time_anew():
    in_flight = InFlight(Cost(N, SEED), streams=2)
    first, second = batch_of(1, 0.0), batch_of(1, 0.25)
    for batch in (first, second):
        in_flight.add(batch)
    in_flight.remove(first, 1.0)
    assert second.started_s == 0.25


def scheduler_of(streams: int) -> Scheduler:
    return Scheduler(AdaptivePolicy(N), Cost(N, SEED), 100, streams)


@pytest.mark.parametrize(("streams", "backlog_s"), [(1, 2.0), (2, 1.0), (4, 0.5)])
def test_what_waits_is_computed_so_many_times_as_fast(streams, backlog_s):
    scheduler = scheduler_of(streams)
    put(scheduler, *[item(number) for number in range(2 * N)])
    assert scheduler.backlog_s(0.0) == pytest.approx(backlog_s)


@pytest.mark.parametrize(("streams", "is_let_in"), [(1, False), (2, True)])
def test_more_are_let_in(streams, is_let_in):
    scheduler = scheduler_of(streams)
    put(scheduler, *[item(number) for number in range(2 * N)])
    terms = Terms(due_s=2.5, deadline_s=NEVER_S, priority=Priority.NORMAL)
    if is_let_in:
        scheduler.check(1, terms, 0.0)
    else:
        with pytest.raises(Overloaded):
            scheduler.check(1, terms, 0.0)


def test_what_a_batch_took_with_all_cores_tells_nothing_of_one_that_shares_them():
    scheduler = scheduler_of(2)
    for all_cores, expected_s in ((True, PASS_S), (False, PASS_S / 3)):
        for _ in range(50):
            batch = batch_of(1)
            batch.all_cores = all_cores
            scheduler.in_flight.add(batch)
            batch.forward_s = PASS_S / 3
            scheduler.finished(batch, 1.0, succeeded=True)
        assert scheduler.cost.seconds("key", 1) == pytest.approx(expected_s, rel=0.05)


@pytest.mark.parametrize("load", [0.8, 1.5])
@pytest.mark.parametrize("streams", [2, 4])
def test_whoever_is_let_in_is_in_time_and_the_streams_are_busy(streams, load):
    seed = {size: 0.008 + 0.001 * size for size in (1, 2, 4, 8)}
    slo_s, seconds = 0.060, 20.0
    capacity = streams * 8 / seed[8]

    async def main() -> None:
        chance = random.Random(7)
        loop = asyncio.get_running_loop()
        runner = Streams(streams)
        runner._seconds = lambda size: (0.008 + 0.001 * size) * chance.uniform(0.9, 1.1)
        late = answered = refused = 0

        def count(sent_s: float, _: asyncio.Future[Any]) -> None:
            nonlocal late, answered
            answered += 1
            late += loop.time() - sent_s > slo_s

        policy = AdaptivePolicy(8)
        async with batching(runner, policy, max_queue_size=1000, seed=seed) as batcher:
            while loop.time() < seconds:
                await asyncio.sleep(chance.expovariate(load * capacity))
                now_s = loop.time()
                try:
                    (future,) = submit(batcher, 1.0, due_s=now_s + slo_s)
                except Overloaded:
                    refused += 1
                else:
                    future.add_done_callback(partial(count, now_s))
            await asyncio.sleep(1)
        assert late <= 0.01 * answered
        assert answered >= 0.9 * min(load, 1.0) * capacity * seconds
        if load < 1:
            assert refused <= 0.01 * answered

    run_virtual(main)

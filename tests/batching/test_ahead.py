"""A runner that queues is given the next batch before it is done with the one before."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from batchserve.batch import Batch, CloseReason, Fault, Priority
from batchserve.batching.batcher import LEAD_S
from batchserve.batching.policy import AdaptivePolicy
from batchserve.errors import DeadlineExceeded, Draining, InternalError, NotReady
from batchserve.runners.base import DeviceLost
from batchserve.testing import FakeRunner, run_virtual
from tests.batching.clients import (
    NEVER_S,
    N,
    answers_of,
    batching,
    check_empty,
    sizes,
    submit,
    submit_tensors,
    turns,
)

PASS_S = 1.0
SEED = {1: PASS_S, N: PASS_S}


class Queueing(FakeRunner):
    """Computes one batch after the other, in the order in which it is given them.

    Attributes:
        given_s: when it was given each.
        begun_s: when it began with each.
    """

    queues = True

    def __init__(self, seconds: float = PASS_S, **kwargs: Any) -> None:
        super().__init__(lambda _: seconds, **kwargs)
        self._device = asyncio.Lock()
        self.given_s: list[float] = []
        self.begun_s: list[float] = []

    async def forward(
        self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
    ) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        self.given_s.append(loop.time())
        async with self._device:
            self.begun_s.append(loop.time())
            return await super().forward(tensors)


def numbers(count: int) -> list[float]:
    return [float(number) for number in range(count)]


def values_of(runner: FakeRunner) -> list[list[float]]:
    return [[tensor.item() for tensor in batch] for batch in runner.batches]


def test_a_full_batch_is_given_shortly_before_the_device_is_free():
    async def main() -> None:
        runner, batches = Queueing(), list[Batch]()
        async with batching(runner, batches=batches, seed=SEED) as batcher:
            sent = numbers(3 * N)
            assert await answers_of(submit(batcher, *sent)) == sent
            await turns()
            check_empty(batcher)
        assert runner.begun_s == pytest.approx([0.0, 1.0, 2.0])
        assert runner.given_s == pytest.approx([0.0, 1.0 - LEAD_S, 2.0 - LEAD_S])
        # What it has waited for the device, it has waited in the queue.
        assert [batch.formed_s for batch in batches] == pytest.approx([0.0, 1.0, 2.0])
        assert [batch.forward_s for batch in batches] == pytest.approx([PASS_S] * 3)

    run_virtual(main)


def test_one_that_is_not_full_waits_for_those_who_come_until_the_end():
    async def main() -> None:
        runner = Queueing()
        async with batching(runner, seed=SEED) as batcher:
            answers = submit(batcher, *numbers(N + 1))
            await asyncio.sleep(PASS_S - LEAD_S / 2)
            answers += submit(batcher, -1.0)
            await asyncio.gather(*answers)
        assert sizes(runner) == [N, 2]
        assert runner.given_s == pytest.approx([0.0, PASS_S])

    run_virtual(main)


def test_one_that_becomes_full_in_the_last_moment_is_given_then():
    async def main() -> None:
        runner = Queueing()
        async with batching(runner, seed=SEED) as batcher:
            answers = submit(batcher, *numbers(N + 1))
            await asyncio.sleep(PASS_S - LEAD_S / 2)
            answers += submit(batcher, *numbers(N - 1))
            await asyncio.gather(*answers)
        assert sizes(runner) == [N, N]
        assert runner.given_s == pytest.approx([0.0, PASS_S - LEAD_S / 2])

    run_virtual(main)


def test_whoever_comes_before_that_still_passes_others():
    async def main() -> None:
        runner = Queueing()
        async with batching(runner, seed=SEED) as batcher:
            answers = submit(batcher, *numbers(2 * N), priority=Priority.BULK)
            await asyncio.sleep(PASS_S / 2)
            answers += submit(batcher, -1.0, priority=Priority.INTERACTIVE)
            await asyncio.gather(*answers)
        assert values_of(runner)[1][0] == -1.0

    run_virtual(main)


@pytest.mark.parametrize(("late_s", "given"), [(LEAD_S / 2, True), (2 * LEAD_S, False)])
def test_a_pass_that_is_overdue_may_take_as_long_again_and_is_waited_for(late_s, given):
    async def main() -> None:
        runner = Queueing(3 * PASS_S)
        async with batching(runner, seed=SEED) as batcher:
            answers = submit(batcher, *numbers(N))
            await asyncio.sleep(PASS_S + late_s)
            answers += submit(batcher, *numbers(N))
            await asyncio.gather(*answers)
        assert runner.given_s[1] == pytest.approx(PASS_S + late_s if given else 3 * PASS_S)

    run_virtual(main)


def test_never_more_than_one_is_given_ahead():
    async def main() -> None:
        runner = Queueing(3 * PASS_S)
        async with batching(runner, seed=SEED) as batcher:
            answers = submit(batcher, *numbers(4 * N))
            await asyncio.sleep(2 * PASS_S)
            assert (len(runner.given_s), batcher.in_flight, batcher.queued) == (2, 2 * N, 2 * N)
            await asyncio.gather(*answers)

    run_virtual(main)


def test_when_one_fails_what_is_left_of_it_waits_for_one_batch_only():
    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        if any(tensor < 0 for tensor in tensors):
            raise ValueError("poison")
        return tensors

    async def main() -> None:
        runner, batches = Queueing(rows=rows), list[Batch]()
        async with batching(runner, batches=batches, seed=SEED) as batcher:
            sent = [-1.0, *numbers(4 * N)[1:]]
            poisoned, *others = await answers_of(submit(batcher, *sent))
            assert isinstance(poisoned, Exception)
            assert others == sent[1:]
            await turns()
            check_empty(batcher)
            assert not batcher.scheduler.in_flight._to_retry
        assert sizes(runner) == [N, N, 2, 1, 1, 2, N, N]
        again = [batch for batch in batches if batch.reason is CloseReason.RETRY]
        assert sum(map(len, again)) == N
        # As always, they have waited until their batch was closed.
        assert {batch.formed_s for batch in again} == {0.0}

    run_virtual(main)


def test_when_the_device_is_lost_so_is_the_one_ahead_and_the_loop_ends():
    def lost(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        raise DeviceLost("an illegal memory access")

    async def main() -> None:
        faults: list[Fault] = []
        runner = Queueing(rows=lost)
        async with batching(runner, seed=SEED, on_fault=faults.append) as batcher:
            answers = await answers_of(submit(batcher, *numbers(3 * N)))
            assert all(isinstance(answer, NotReady) for answer in answers)
            assert not batcher.running
            assert not batcher.queued
            await asyncio.sleep(2 * PASS_S)
            assert batcher._loop is not None
            assert batcher._loop.done()
        assert faults == [Fault.DEVICE_LOST]

    run_virtual(main)


def test_when_a_pass_hangs_the_one_ahead_may_be_asked_again():
    async def main() -> None:
        async with batching(Queueing(NEVER_S), seed=SEED, hang_s=5 * PASS_S) as batcher:
            answers = await answers_of(submit(batcher, *numbers(3 * N)))
        kinds = [type(answer) for answer in answers]
        assert kinds == [DeadlineExceeded] * N + [NotReady] * 2 * N

    run_virtual(main)


def test_a_lane_that_is_cancelled_ends_the_loop(monkeypatch):
    def cancelled(batch: Batch, rows: Sequence[Any]) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        async with batching(Queueing(), seed=SEED) as batcher:
            monkeypatch.setattr(batcher.passes, "_resolve", cancelled)
            answers = await answers_of(submit(batcher, *numbers(N + 1)))
            assert all(isinstance(answer, Exception) for answer in answers)
            assert not batcher.running

    run_virtual(main)


@pytest.mark.parametrize("queues", [False, True])
def test_an_idle_batcher_holds_nothing_of_its_last_batches(queues):
    async def main() -> None:
        runner, batches = Queueing(), list[Batch]()
        runner.queues = queues
        async with batching(runner, batches=batches, seed=SEED) as batcher:
            tensors = [torch.ones(3) for _ in range(2 * N)]
            left = [weakref.ref(tensor) for tensor in tensors]
            await asyncio.gather(*submit_tensors(batcher, tensors))
            del tensors
            runner.batches.clear()
            batches.clear()
            await turns()
            gc.collect()
            assert not any(reference() is not None for reference in left)

    run_virtual(main)


def test_a_bug_fails_both_and_the_loop_goes_on(monkeypatch, caplog):
    async def main() -> None:
        runner, batches = Queueing(), list[Batch]()
        async with batching(runner, batches=batches, seed=SEED) as batcher:
            resolve = batcher.passes._resolve

            def fails_once(batch: Batch, rows: Sequence[Any]) -> None:
                monkeypatch.setattr(batcher.passes, "_resolve", resolve)
                raise ZeroDivisionError

            monkeypatch.setattr(batcher.passes, "_resolve", fails_once)
            for answer in await answers_of(submit(batcher, *numbers(3 * N))):
                assert isinstance(answer, InternalError)
            await asyncio.sleep(2 * PASS_S)
            assert await answers_of(submit(batcher, 1.0)) == [1.0]
            await turns()
            check_empty(batcher)
        assert "a bug in batchserve" in caplog.text

    run_virtual(main)


def test_who_closes_it_leaves_nobody_waiting():
    async def main() -> None:
        async with batching(Queueing(), AdaptivePolicy(N), seed=SEED) as batcher:
            answers = submit(batcher, *numbers(3 * N))
            await asyncio.sleep(PASS_S - LEAD_S / 2)
            assert batcher.in_flight == 2 * N
            await batcher.close()
            for answer in await answers_of(answers):
                assert isinstance(answer, Draining)

    run_virtual(main)

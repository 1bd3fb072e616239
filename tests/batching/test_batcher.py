"""The batcher on virtual time: exact, and without waiting."""

import asyncio
import logging

import pytest
import torch

from batchserve.batch import Batch, CloseReason
from batchserve.batching.batcher import Batcher
from batchserve.batching.cost import Cost
from batchserve.batching.policy import AdaptivePolicy, FixedPolicy
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import Draining, InternalError
from batchserve.testing import FakeRunner, GatedRunner, run_virtual
from tests.batching.clients import PATIENT, T_S, N, batching, submit, submit_tensors, turns


def test_alone_a_request_waits_for_nobody():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(lambda _: 0.5), batches=batches) as batcher:
            (future,) = submit(batcher, 7.0)
            assert (await future).item() == 7.0
            assert asyncio.get_running_loop().time() == 0.5
        assert [(len(batch), batch.reason) for batch in batches] == [(1, CloseReason.IDLE)]

    run_virtual(main)


def test_fixed_waits_for_company_until_the_oldest_has_waited_long_enough():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(), FixedPolicy(N, T_S), batches=batches) as batcher:
            (first,) = submit(batcher, 1.0)
            await asyncio.sleep(0.006)
            (second,) = submit(batcher, 2.0)
            await asyncio.gather(first, second)
        (batch,) = batches
        assert (len(batch), batch.reason) == (2, CloseReason.WAIT)
        assert batch.formed_s == pytest.approx(T_S)

    run_virtual(main)


@pytest.mark.parametrize("policy", [FixedPolicy(N, T_S), AdaptivePolicy(N, T_S)])
def test_a_full_batch_goes_at_once_and_is_never_over_n(policy):
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(), policy, batches=batches) as batcher:
            await asyncio.gather(*submit(batcher, *range(N + 1)))
        assert [len(batch) for batch in batches] == [N, 1]
        assert batches[0].reason is CloseReason.FULL
        assert batches[0].formed_s == 0.0

    run_virtual(main)


def test_a_batch_is_formed_when_the_device_becomes_free_from_all_that_wait():
    async def main() -> None:
        batches: list[Batch] = []
        runner = GatedRunner()
        async with batching(runner, batches=batches) as batcher:
            futures = submit(batcher, 0.0)
            await runner.wait_started()
            for value in (1.0, 2.0, 3.0):
                futures += submit(batcher, value)
                await turns()
            runner.release()
            runner.release()
            await asyncio.gather(*futures)
        assert [len(batch) for batch in batches] == [1, 3]

    run_virtual(main)


def test_clients_who_come_back_at_once_join_whoever_waits_already():
    async def main() -> None:
        batches: list[Batch] = []
        runner = GatedRunner()
        async with batching(runner, batches=batches) as batcher:

            async def come_back() -> None:
                for _ in range(2):
                    (future,) = submit(batcher, 1.0)
                    await future

            clients = [asyncio.create_task(come_back()) for _ in range(N - 1)]
            await runner.wait_started()
            (waiting,) = submit(batcher, 2.0)
            runner.release()
            runner.release()
            await asyncio.gather(waiting, *clients)
        # Without a turn for the clients, it would be one by one: 3, 1, 3.
        assert [len(batch) for batch in batches] == [N - 1, N]

    run_virtual(main)


def test_adaptive_waits_for_a_request_that_is_being_decoded():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(), batches=batches) as batcher:
            with batcher.arrival(PATIENT) as slow:
                (quick,) = submit(batcher, 1.0)
                await asyncio.sleep(0.004)
                (joined,) = slow.submit([torch.tensor(2.0)])
                await asyncio.gather(quick, joined.future)
        (batch,) = batches
        assert (len(batch), batch.reason) == (2, CloseReason.IDLE)
        assert batch.formed_s == pytest.approx(0.004)

    run_virtual(main)


def test_adaptive_stops_waiting_when_that_request_turns_out_bad():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(), batches=batches) as batcher:
            with batcher.arrival(PATIENT):
                (quick,) = submit(batcher, 1.0)
                await asyncio.sleep(0.004)
            await quick
        (batch,) = batches
        assert batch.reason is CloseReason.IDLE
        assert batch.formed_s == pytest.approx(0.004)

    run_virtual(main)


def test_adaptive_waits_for_a_slow_upload_no_longer_than_max_wait():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(), batches=batches) as batcher:
            with batcher.arrival(PATIENT):
                (quick,) = submit(batcher, 1.0)
                await quick
                assert asyncio.get_running_loop().time() == pytest.approx(T_S)
        assert batches[0].reason is CloseReason.WAIT

    run_virtual(main)


def test_shapes_and_dtypes_batch_apart_even_when_they_alternate():
    async def main() -> None:
        batches: list[Batch] = []
        kinds = [torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.int64)]
        async with batching(FakeRunner(), batches=batches) as batcher:
            tensors = [kind + i for i in range(3) for kind in kinds]
            rows = await asyncio.gather(*submit_tensors(batcher, tensors))
            assert all(torch.equal(row, sent) for row, sent in zip(rows, tensors, strict=True))
        assert [len(batch) for batch in batches] == [3, 3, 3]
        assert all(len({item.bucket_key for item in batch.items}) == 1 for batch in batches)

    run_virtual(main)


def test_what_is_no_tensor_is_refused_where_it_is_submitted():
    async def main() -> None:
        async with batching(FakeRunner()) as batcher:
            for _ in range(2):
                with batcher.arrival(PATIENT) as arrival, pytest.raises(AttributeError):
                    arrival.submit([torch.tensor(1.0), None])  # type: ignore[list-item]
            assert batcher.queued == 0
            (good,) = submit(batcher, 2.0)
            assert (await good).item() == 2.0

    run_virtual(main)


def test_counting_that_fails_hurts_nobody(caplog):
    def broken(batch: Batch) -> None:
        raise OSError("disk full")

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        runner, policy = GatedRunner(), AdaptivePolicy(N, T_S)
        scheduler = Scheduler(policy, Cost(N), 100)
        batcher = Batcher("test:1", scheduler, runner, on_batch=broken, clock=clock)
        batcher.start()
        (first,) = submit(batcher, 1.0)
        await runner.wait_started()
        (waiting,) = submit(batcher, 2.0)
        runner.release()
        runner.release()
        assert [(await future).item() for future in (first, waiting)] == [1.0, 2.0]
        await batcher.close()

    with caplog.at_level(logging.ERROR):
        run_virtual(main)
    assert "disk full" in caplog.text


def test_a_bug_in_the_loop_fails_what_waits_and_the_loop_goes_on(caplog):
    class Buggy(AdaptivePolicy):
        broken = True

        def decide(self, bucket, view):
            if self.broken:
                raise KeyError("bug")
            return super().decide(bucket, view)

    async def main() -> None:
        policy = Buggy(N, T_S)
        async with batching(FakeRunner(), policy) as batcher:
            (hit,) = submit(batcher, 1.0)
            with pytest.raises(InternalError):
                await hit
            assert batcher.running
            policy.broken = False
            (served,) = submit(batcher, 2.0)
            assert (await served).item() == 2.0

    with caplog.at_level(logging.ERROR):
        run_virtual(main)
    assert "a bug in batchserve" in caplog.text


def test_draining_admits_nothing_and_finishes_what_was_admitted_without_waiting():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(), FixedPolicy(N, 100.0), batches=batches) as batcher:
            with batcher.arrival(PATIENT) as admitted:
                (waiting,) = submit(batcher, 1.0)
                await turns()
                batcher.drain()
                with pytest.raises(Draining):
                    batcher.arrival(PATIENT)
                assert (await waiting).item() == 1.0
                (late,) = admitted.submit([torch.tensor(2.0)])
                assert (await late.future).item() == 2.0
            assert asyncio.get_running_loop().time() == 0.0
        assert [batch.reason for batch in batches] == [CloseReason.DRAIN] * 2

    run_virtual(main)


def test_closing_answers_everyone_who_still_waits():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner) as batcher:
            (in_flight,) = submit(batcher, 0.0)
            await runner.wait_started()
            (waiting,) = submit(batcher, 1.0)
        for future in (in_flight, waiting):
            with pytest.raises(Draining):
                await future
        assert not batcher.running

    run_virtual(main)


def test_the_record_of_a_batch_tells_waits_and_the_pass():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(lambda _: 0.25), batches=batches) as batcher:
            with batcher.arrival(PATIENT):
                submit(batcher, 1.0)
                await asyncio.sleep(0.003)
                (future,) = submit(batcher, 2.0)
            await future
        (batch,) = batches
        assert batch.forward_s == pytest.approx(0.25)
        waits = [batch.formed_s - item.queued_s for item in batch.items]
        assert waits == pytest.approx([0.003, 0.0])
        assert all(item.batch is batch for item in batch.items)

    run_virtual(main)


def test_the_loop_dies_with_its_task_and_readiness_can_tell():
    async def main() -> None:
        async with batching(FakeRunner()) as batcher:
            assert batcher.running
            assert batcher._loop is not None
            with batcher.arrival(PATIENT):
                (waiting,) = submit(batcher, 1.0)
                await turns()
                batcher._loop.cancel()
                with pytest.raises(InternalError):
                    await waiting
            assert not batcher.running

    run_virtual(main)


@pytest.mark.parametrize(
    ("waiting", "holds_up", "turns"), [(2 * N, False, 0), (2 * N, True, 1), (2 * N - 1, False, 3)]
)
def test_turns_are_given_while_newcomers_could_join_and_to_answers_in_any_case(
    waiting, holds_up, turns
):
    class Counting(FakeRunner):
        holds_up_the_loop = holds_up

        def __init__(self) -> None:
            super().__init__()
            self.turns = 0
            self.begun_after: list[int] = []

        async def tick(self) -> None:
            while True:
                self.turns += 1
                await asyncio.sleep(0)

        async def forward(self, tensors, *, all_cores=False):
            self.begun_after.append(self.turns)
            return await super().forward(tensors)

    async def main() -> None:
        runner = Counting()
        ticking = asyncio.create_task(runner.tick())
        async with batching(runner) as batcher:
            await asyncio.gather(*submit(batcher, *range(waiting)))
        ticking.cancel()
        first, second = runner.begun_after
        # One turn is the pass itself.
        assert second - first == 1 + turns

    run_virtual(main)

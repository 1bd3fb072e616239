"""Who waits: the bounds of the queue, and what becomes of those who leave it early."""

import asyncio
from contextlib import AsyncExitStack

import pytest
import torch

from batchserve.batch import Batch
from batchserve.batching.policy import AdaptivePolicy, FixedPolicy
from batchserve.errors import DeadlineExceeded, QueueFull, TooLarge
from batchserve.testing import FakeRunner, GatedRunner, run_virtual
from tests.batching.clients import PATIENT, T_S, N, batching, check_empty, submit, turns


def test_a_cancelled_item_is_not_computed_and_its_neighbours_are_answered():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner) as batcher:
            (first,) = submit(batcher, 0.0)
            await runner.wait_started()
            cancelled, kept = submit(batcher, 1.0, 2.0)
            cancelled.cancel()
            runner.release()
            runner.release()
            assert (await first).item() == 0.0
            assert (await kept).item() == 2.0
        assert [[tensor.item() for tensor in batch] for batch in runner.batches] == [[0.0], [2.0]]

    run_virtual(main)


def test_an_item_cancelled_during_its_forward_pass_does_not_end_the_loop():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner) as batcher:
            cancelled, kept = submit(batcher, 1.0, 2.0)
            await runner.wait_started()
            cancelled.cancel()
            runner.release()
            assert (await kept).item() == 2.0
            assert batcher.running

    run_virtual(main)


def test_an_expired_item_is_answered_and_never_computed():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner) as batcher:
            (first,) = submit(batcher, 0.0)
            await runner.wait_started()
            (late,) = submit(batcher, 1.0, deadline_s=0.5)
            (patient,) = submit(batcher, 2.0, deadline_s=5.0)
            await asyncio.sleep(1.0)
            runner.release()
            runner.release()
            with pytest.raises(DeadlineExceeded):
                await late
            assert (await patient).item() == 2.0
            await first
        assert [[tensor.item() for tensor in batch] for batch in runner.batches] == [[0.0], [2.0]]

    run_virtual(main)


def test_the_queue_is_bounded_by_items_and_says_when_to_come_back():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner, max_queue_size=3, seed={1: 2.0, 4: 8.0}) as batcher:
            (in_flight,) = submit(batcher, 0.0)
            await runner.wait_started()
            waiting = submit(batcher, 1.0, 2.0)
            with pytest.raises(QueueFull) as refused:
                submit(batcher, 3.0, 4.0)
            # Two wait and one is in flight, at 2 s each.
            assert refused.value.retry_after_s == 6
            assert repr(batcher) == "<Batcher test:1 | 2 queued, 1 in flight>"
            waiting += submit(batcher, 3.0)
            with pytest.raises(QueueFull):
                batcher.arrival(PATIENT)
            # One by one, which is as fast here.
            for _ in range(4):
                runner.release()
            await asyncio.gather(in_flight, *waiting)
            await turns()
            check_empty(batcher)

    run_virtual(main)


def test_places_are_held_for_what_is_being_decoded():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner, max_queue_size=N) as batcher:
            submit(batcher, 0.0)
            await runner.wait_started()
            with batcher.arrival(PATIENT) as slow:
                slow.reserve(2)
                submit(batcher, 1.0, 2.0)
                with pytest.raises(QueueFull, match="4 of max_queue_size=4 places are taken"):
                    batcher.arrival(PATIENT)
                # Whoever came first is not turned away at last.
                slow.submit([torch.tensor(3.0), torch.tensor(4.0)])
                assert batcher.queued == N
            assert batcher.queued == N - 2

    run_virtual(main)


def test_slow_uploads_shut_nobody_out():
    async def main() -> None:
        async with batching(FakeRunner(), max_queue_size=N) as batcher, AsyncExitStack() as stack:
            for _ in range(10 * N):
                stack.enter_context(batcher.arrival(PATIENT))
            (quick,) = submit(batcher, 1.0)
            assert (await quick).item() == 1.0

    run_virtual(main)


def test_a_place_that_was_held_is_free_when_decoding_fails():
    async def main() -> None:
        async with batching(FakeRunner(), max_queue_size=N) as batcher:
            with pytest.raises(ValueError, match="bad"), batcher.arrival(PATIENT) as bad:  # noqa: PT012
                bad.reserve(N)
                raise ValueError("bad")
            await asyncio.gather(*submit(batcher, *range(N)))

    run_virtual(main)


@pytest.mark.parametrize("policy", [FixedPolicy(N, T_S), AdaptivePolicy(N, T_S)])
def test_the_dead_count_neither_towards_n_nor_towards_t(policy):
    async def main() -> None:
        batches: list[Batch] = []
        runner = GatedRunner()
        async with batching(runner, policy, batches=batches) as batcher:
            first = submit(batcher, *range(N))
            await runner.wait_started()
            cancelled = submit(batcher, 1.0, 2.0)
            (expired,) = submit(batcher, 3.0, deadline_s=0.020)
            await asyncio.sleep(0.030)
            with batcher.arrival(PATIENT):
                (live,) = submit(batcher, 4.0)
                for future in cancelled:
                    future.cancel()
                await turns()
                assert batcher.queued == 1
                runner.release()
                runner.release()
                assert (await live).item() == 4.0
            with pytest.raises(DeadlineExceeded):
                await expired
            await asyncio.gather(*first)
        assert [len(batch) for batch in batches] == [N, 1]
        assert batches[1].formed_s == pytest.approx(0.030 + T_S)

    run_virtual(main)


def test_more_items_than_could_ever_wait_are_too_many():
    async def main() -> None:
        async with batching(FakeRunner(), max_queue_size=5) as batcher:
            with pytest.raises(TooLarge, match="max_queue_size=5"):
                submit(batcher, *range(6))

    run_virtual(main)


def test_of_a_request_that_does_not_fit_nothing_is_queued():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner, max_queue_size=N) as batcher:
            submit(batcher, 0.0)
            await runner.wait_started()
            submit(batcher, 1.0, 2.0)
            with pytest.raises(QueueFull):
                submit(batcher, 3.0, 4.0, 5.0)
            assert batcher.queued == 2

    run_virtual(main)


def test_a_request_that_hangs_up_gives_its_places_to_the_next():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner, max_queue_size=N) as batcher:
            (in_flight,) = submit(batcher, 0.0)
            await runner.wait_started()
            leaving, staying = submit(batcher, 1.0, 2.0), submit(batcher, 3.0, 4.0)
            with pytest.raises(QueueFull):
                submit(batcher, 8.0)
            for future in leaving:
                future.cancel()
            await turns()
            assert batcher.queued == 2
            next_ = submit(batcher, 8.0, 9.0)
            for _ in range(2):
                runner.release()
            rows = await asyncio.gather(in_flight, *staying, *next_)
            assert [row.item() for row in rows] == [0.0, 3.0, 4.0, 8.0, 9.0]

    run_virtual(main)


def test_refused_requests_leave_nothing_behind():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner, max_queue_size=N) as batcher:
            submit(batcher, 0.0)
            await runner.wait_started()
            for _ in range(1000):
                with batcher.arrival(PATIENT):
                    pass
            assert batcher.queued == 0
            submit(batcher, *range(N))

    run_virtual(main)

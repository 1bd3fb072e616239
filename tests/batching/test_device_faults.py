"""What goes wrong with the device: its memory ends, it is lost, or a pass never returns."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from batchserve.batching.batcher import WATCH_SHARE, Batcher
from batchserve.batching.memory_limit import TRY_AGAIN_S
from batchserve.batching.policy import AdaptivePolicy
from batchserve.errors import DeadlineExceeded, ModelFailed, NotReady
from batchserve.runners.base import DeviceLost, OutOfMemory
from batchserve.testing import FakeRunner, GatedRunner, run_virtual
from tests.batching.clients import (
    PATIENT,
    N,
    answers_of,
    batching,
    check_empty,
    sizes,
    submit,
    turns,
)

HANG_S = 8.0


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


# Memory.


def room_for(most: Callable[[], int]) -> Callable[[Sequence[torch.Tensor]], Sequence[Any]]:
    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if len(tensors) > most():
            raise OutOfMemory("the fake device is small")
        return tensors

    return rows


def test_out_of_memory_is_retried_in_halves_and_everybody_is_answered():
    async def main() -> None:
        runner = FakeRunner(rows=room_for(lambda: 3))
        async with batching(runner, AdaptivePolicy(16)) as batcher:
            sent = [float(number) for number in range(16)]
            assert await answers_of(submit(batcher, *sent)) == sent
            await turns()
            check_empty(batcher)
        # Once it is known that 4 are too many, no more than 2 are tried.
        assert sizes(runner) == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]

    run_virtual(main)


def test_the_safe_size_is_remembered():
    async def main() -> None:
        runner = FakeRunner(rows=room_for(lambda: 3))
        async with batching(runner, AdaptivePolicy(8)) as batcher:
            await answers_of(submit(batcher, *range(8)))
            failed = len(runner.batches)
            await answers_of(submit(batcher, *range(8)))
        assert sizes(runner)[failed:] == [2, 2, 2, 2]

    run_virtual(main)


def test_the_safe_size_is_each_shapes_own():
    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if tensors[0].numel() > 1 and len(tensors) > 1:
            raise OutOfMemory("the fake device is small")
        return tensors

    async def main() -> None:
        runner = FakeRunner(rows=rows)
        async with batching(runner) as batcher:
            with batcher.arrival(PATIENT) as arrival:
                items = arrival.submit([torch.zeros(9) for _ in range(2)])
                await asyncio.gather(*(item.future for item in items))
            runner.batches.clear()
            await answers_of(submit(batcher, *range(N)))
        assert sizes(runner) == [N]

    run_virtual(main)


def test_a_larger_size_is_tried_again_later_and_kept_if_it_fits():
    room = [2]

    async def main() -> None:
        runner = FakeRunner(rows=room_for(lambda: room[0]))
        async with batching(runner, AdaptivePolicy(8)) as batcher:

            async def sizes_of_eight() -> list[int]:
                runner.batches.clear()
                await answers_of(submit(batcher, *range(8)))
                return sizes(runner)

            await sizes_of_eight()
            assert await sizes_of_eight() == [2, 2, 2, 2]
            # No better yet.
            await asyncio.sleep(TRY_AGAIN_S)
            assert await sizes_of_eight() == [4, 2, 2, 2, 2]
            assert await sizes_of_eight() == [2, 2, 2, 2]
            # Whoever took the memory has gone.
            room[0] = 8
            assert await sizes_of_eight() == [2, 2, 2, 2]
            await asyncio.sleep(TRY_AGAIN_S)
            assert await sizes_of_eight() == [4, 4]
            await asyncio.sleep(TRY_AGAIN_S)
            assert await sizes_of_eight() == [8]
            assert await sizes_of_eight() == [8]

    run_virtual(main)


def test_an_item_too_large_for_the_memory_all_alone_fails_and_says_why():
    async def main() -> None:
        async with batching(FakeRunner(rows=room_for(lambda: 0))) as batcher:
            for error in await answers_of(submit(batcher, 1.0, 2.0)):
                assert isinstance(error, ModelFailed)
                assert "ran out of memory" in str(error)
            assert batcher.running

    run_virtual(main)


# The device is lost.


def lost(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
    raise DeviceLost("an illegal memory access")


def check_lost(batcher: Batcher, reason: str) -> None:
    assert batcher.lost is not None
    assert reason in batcher.lost
    assert not batcher.running
    with pytest.raises(NotReady, match=reason):
        batcher.arrival(PATIENT)


def test_when_the_device_is_lost_everybody_is_told_to_come_back():
    async def main() -> None:
        runner = FakeRunner(lambda _: 1.0, lost)
        async with batching(runner) as batcher:
            running = submit(batcher, 1.0, 2.0)
            await asyncio.sleep(0.5)
            waiting = submit(batcher, 3.0)
            errors = await answers_of([*running, *waiting])
            assert [type(error) for error in errors] == [NotReady] * 3

    run_virtual(main)


def test_when_the_device_is_lost_everybody_is_answered_and_the_loop_ends(caplog):
    async def main() -> None:
        runner = FakeRunner(lambda _: 1.0, lost)
        async with batching(runner) as batcher:
            running = submit(batcher, 1.0, 2.0)
            await asyncio.sleep(0.5)
            waiting = submit(batcher, 3.0)
            *of_the_pass, of_the_queue = await answers_of([*running, *waiting])
            assert all(isinstance(error, NotReady | DeadlineExceeded) for error in of_the_pass)
            assert isinstance(of_the_queue, NotReady)
            await turns()
            check_lost(batcher, "the device does not answer")
            assert batcher._loop is not None
            assert batcher._loop.done()
            check_empty(batcher)
        # Nothing is tried with it any more.
        assert sizes(runner) == [2]

    run_virtual(main)
    assert "an illegal memory access" in caplog.text


def test_a_device_that_is_lost_while_a_batch_is_bisected_leaves_nobody_waiting():
    calls = [0]

    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        calls[0] += 1
        if calls[0] == 2:
            return tensors
        raise ValueError("bad") if calls[0] == 1 else DeviceLost("gone")

    async def main() -> None:
        async with batching(FakeRunner(rows=rows)) as batcher:
            one, two, *errors = await answers_of(submit(batcher, 1.0, 2.0, 3.0, 4.0))
            assert (one, two) == (1.0, 2.0)
            assert all(isinstance(error, NotReady | DeadlineExceeded) for error in errors)
            check_lost(batcher, "gone")

    run_virtual(main)


def test_who_was_being_decoded_when_the_device_was_lost_is_told_so():
    async def main() -> None:
        async with batching(FakeRunner(rows=lost)) as batcher:
            with batcher.arrival(PATIENT) as slow:
                slow.reserve(1)
                await answers_of(submit(batcher, *range(N)))
                await turns()
                try:
                    (item,) = slow.submit([torch.tensor(1.0)])
                except NotReady:
                    return
                await turns()
                assert item.future.done(), "nobody will ever answer this"
                assert isinstance(item.future.exception(), NotReady)

    run_virtual(main)


# A pass never returns.


def test_a_pass_that_never_returns_is_noticed_and_everybody_is_answered():
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        runner = GatedRunner()
        async with batching(runner, hang_s=HANG_S) as batcher:
            running = submit(batcher, *range(N))
            await runner.wait_started()
            waiting = submit(batcher, 5.0)
            errors = await answers_of([*running, *waiting])
            assert [type(error) for error in errors] == [DeadlineExceeded] * N + [NotReady]
            assert HANG_S < clock() <= HANG_S * (1 + 2 * WATCH_SHARE)
            check_lost(batcher, "has not returned for 8 s")

    run_virtual(main)


def test_a_hung_pass_that_returns_after_all_answers_nobody_twice_and_ends_the_loop():
    async def main() -> None:
        runner = GatedRunner()
        async with batching(runner, hang_s=HANG_S) as batcher:
            (future,) = submit(batcher, 1.0)
            await answers_of([future])
            runner.release()
            await turns()
            assert batcher._loop is not None
            assert batcher._loop.done()
            assert batcher._loop.exception() is None
            assert isinstance(future.exception(), DeadlineExceeded)
            await turns()
            check_empty(batcher)

    run_virtual(main)


def test_of_a_batch_that_hangs_while_it_is_bisected_the_answered_stay_answered():
    class Hangs(FakeRunner):
        async def forward(
            self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
        ) -> Sequence[Any]:
            self.batches.append(tensors)
            if len(tensors) == N:
                raise ValueError("bad")
            if len(self.batches) == 3:
                await asyncio.get_running_loop().create_future()
            return tensors

    async def main() -> None:
        async with batching(Hangs(), hang_s=HANG_S) as batcher:
            one, two, *errors = await answers_of(submit(batcher, 1.0, 2.0, 3.0, 4.0))
            assert (one, two) == (1.0, 2.0)
            assert [type(error) for error in errors] == [DeadlineExceeded] * 2

    run_virtual(main)


def test_passes_that_return_are_never_taken_for_hung_however_many_there_are():
    async def main() -> None:
        async with batching(FakeRunner(lambda _: 0.9 * HANG_S), hang_s=HANG_S) as batcher:
            for number in range(10):
                assert await answers_of(submit(batcher, float(number))) == [number]
            await asyncio.sleep(100 * HANG_S)
            assert batcher.running

    run_virtual(main)


def test_while_nobody_is_waited_for_no_timer_is_set_not_even_by_the_watch(monkeypatch):
    async def main() -> None:
        async with batching(FakeRunner(), hang_s=HANG_S) as batcher:
            await turns()
            loop, timers = asyncio.get_running_loop(), []
            call_at = loop.call_at

            def counted(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
                timers.append(args)
                return call_at(*args, **kwargs)

            monkeypatch.setattr(loop, "call_at", counted)
            for number in range(100):
                await answers_of(submit(batcher, float(number), 2.0))
            assert timers == []

    run_virtual(main)

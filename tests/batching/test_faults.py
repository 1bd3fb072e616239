"""What goes wrong in a pass, and who is told: on virtual time."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchserve.batch import Batch, CloseReason
from batchserve.batching.policy import AdaptivePolicy
from batchserve.batching.quarantine import FORGET_S
from batchserve.errors import DeadlineExceeded, ModelFailed
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

MOST = 64
Rows = Callable[[Sequence[torch.Tensor]], Sequence[Any]]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


def poisoned(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Fail on a negative number, as a model on a bad input."""
    if any(tensor < 0 for tensor in tensors):
        raise ZeroDivisionError("secret detail")
    return [10 * tensor for tensor in tensors]


def values(runner: FakeRunner) -> list[list[float]]:
    return [[tensor.item() for tensor in batch] for batch in runner.batches]


# Bisecting.


def bisect(count: int, guilty: set[int]) -> int:
    """Check who is answered in a batch of so many; return how many passes that took."""
    runner = FakeRunner(rows=poisoned)

    async def main() -> None:
        async with batching(runner, AdaptivePolicy(MOST)) as batcher:
            sent = [-number if number - 1 in guilty else number for number in range(1, count + 1)]
            futures = submit(batcher, *map(float, sent))
            for number, answer in zip(sent, await answers_of(futures), strict=True):
                if number < 0:
                    assert isinstance(answer, ModelFailed)
                else:
                    assert answer == 10 * number, "a neighbour got no answer, or another's"
            await turns()
            check_empty(batcher)

    run_virtual(main)
    assert sizes(runner)[0] == count
    return len(runner.batches)


def most_passes(count: int, guilty: int) -> int:
    """The first pass, and two for each halving on the way to each guilty item."""
    return 1 + 2 * math.ceil(math.log2(count)) * guilty


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 16])
def test_wherever_the_guilty_item_is_only_it_fails(count):
    for position in range(count):
        assert bisect(count, {position}) <= most_passes(count, 1)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_each_guilty_item_costs_at_most_twice_the_logarithm_of_the_batch(data: st.DataObject):
    count = data.draw(st.integers(1, MOST))
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=min(count, 8)))
    assert bisect(count, guilty) <= most_passes(count, len(guilty))


def test_if_all_are_guilty_all_fail_and_the_loop_goes_on():
    assert bisect(MOST, set(range(MOST))) == 2 * MOST - 1


def test_a_part_of_a_failed_batch_says_so_and_the_failed_pass_is_not_counted():
    async def main() -> None:
        batches: list[Batch] = []
        async with batching(FakeRunner(lambda _: 0.5, poisoned), batches=batches) as batcher:
            await answers_of(submit(batcher, 1.0, 2.0, 3.0, -4.0))
        assert [(len(batch), batch.reason) for batch in batches] == [
            (2, CloseReason.RETRY),
            (1, CloseReason.RETRY),
            (1, CloseReason.RETRY),
        ]
        # What it waited for in the queue ends when it was first in a batch.
        assert [batch.formed_s for batch in batches] == [0.0] * 3
        assert [batch.started_s for batch in batches] == [0.5, 1.5, 2.0]

    run_virtual(main)


def test_newcomers_are_told_of_the_halves_that_are_still_to_be_tried():
    async def main() -> None:
        runner = FakeRunner(lambda _: 1.0, poisoned)
        async with batching(runner, AdaptivePolicy(4), seed={1: 1.0, 4: 1.0}) as batcher:
            submit(batcher, 1.0, 2.0, 3.0, -4.0)
            await asyncio.sleep(1.5)
            # The first half's pass is running, for another 0.5 s; the second one's takes 1 s.
            ahead_s = batcher.scheduler.backlog(batcher.clock()).busy_s
            assert ahead_s == pytest.approx(1.5, rel=0.1)

    run_virtual(main)


def test_the_model_failed_says_the_client_and_the_log_says_why(caplog):
    async def main() -> None:
        async with batching(FakeRunner(rows=poisoned)) as batcher:
            (error,) = await answers_of(submit(batcher, -1.0))
            assert isinstance(error, ModelFailed)
            assert "ZeroDivisionError" in str(error)
            assert "secret" not in str(error)
            assert await answers_of(submit(batcher, 5.0)) == [50.0]
            assert batcher.running

    run_virtual(main)
    assert "secret detail" in caplog.text


def test_a_failure_that_does_not_come_back_hurts_nobody():
    failures = [RuntimeError("a cosmic ray")]

    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if failures:
            raise failures.pop()
        return tensors

    async def main() -> None:
        runner = FakeRunner(rows=rows)
        async with batching(runner) as batcher:
            assert await answers_of(submit(batcher, 1.0, 2.0, 3.0, 4.0)) == [1.0, 2.0, 3.0, 4.0]
        assert sizes(runner) == [4, 2, 2]

    run_virtual(main)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_wrong_number_of_rows_is_a_failed_pass_and_answers_nobody_wrongly(count):
    async def main() -> None:
        runner = FakeRunner(rows=lambda _: [torch.tensor(9.0)] * count)
        async with batching(runner) as batcher:
            errors = await answers_of(submit(batcher, 1.0, 2.0))
            assert [type(error) for error in errors] == [ModelFailed, ModelFailed]
            assert sizes(runner) == [2, 1, 1]
            assert batcher.running

    run_virtual(main)


def test_a_model_that_loses_rows_of_large_batches_is_served_in_small_ones():
    async def main() -> None:
        runner = FakeRunner(rows=lambda tensors: tensors[:2])
        async with batching(runner) as batcher:
            assert await answers_of(submit(batcher, 1.0, 2.0, 3.0, 4.0)) == [1.0, 2.0, 3.0, 4.0]

    run_virtual(main)


def test_an_exception_as_a_row_is_that_items_error_alone():
    def rows(tensors: Sequence[torch.Tensor]) -> list[Any]:
        return [tensor if tensor >= 0 else ValueError("too dark") for tensor in tensors]

    async def main() -> None:
        runner = FakeRunner(rows=rows)
        async with batching(runner) as batcher:
            first, error, last = await answers_of(submit(batcher, 1.0, -2.0, 3.0))
            assert (first, last) == (1.0, 3.0)
            assert isinstance(error, ModelFailed)
            assert "too dark" in str(error)
        assert sizes(runner) == [3]

    run_virtual(main)


def test_a_runner_that_is_cancelled_is_a_failed_pass():
    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if tensors[0] < 0:
            raise asyncio.CancelledError
        return tensors

    async def main() -> None:
        async with batching(FakeRunner(rows=rows)) as batcher:
            (error,) = await answers_of(submit(batcher, -1.0))
            assert isinstance(error, ModelFailed)
            assert await answers_of(submit(batcher, 2.0)) == [2.0]

    run_virtual(main)


def test_a_runner_that_answers_a_cancellation_with_an_error_does_not_hold_up_the_end():
    class Stubborn(GatedRunner):
        async def forward(
            self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
        ) -> Sequence[Any]:
            try:
                return await super().forward(tensors)
            except asyncio.CancelledError:
                raise RuntimeError("interrupted") from None

    async def main() -> None:
        runner = Stubborn()
        async with batching(runner) as batcher:
            (future,) = submit(batcher, 1.0)
            await runner.wait_started()
            loop = batcher._loop
            assert loop is not None
            loop.cancel()
            await turns()
            assert loop.done()
            assert future.done()

    run_virtual(main)


def test_whoever_has_left_or_is_too_late_is_not_computed_again():
    async def main() -> None:
        runner = FakeRunner(lambda _: 1.0, poisoned)
        async with batching(runner) as batcher:
            guilty = submit(batcher, -1.0)
            (gone,) = submit(batcher, 2.0)
            (hasty,) = submit(batcher, 3.0, deadline_s=0.5)
            (kept,) = submit(batcher, 4.0, deadline_s=5.0)
            await asyncio.sleep(0.5)
            gone.cancel()
            assert isinstance((await answers_of([hasty]))[0], DeadlineExceeded)
            assert await answers_of([kept]) == [40.0]
            await answers_of(guilty)
        assert values(runner) == [[-1.0, 2.0, 3.0, 4.0], [-1.0], [4.0]]

    run_virtual(main)


def test_an_item_whose_time_ends_while_others_are_bisected_is_told_so():
    async def main() -> None:
        runner = FakeRunner(lambda _: 1.0, poisoned)
        async with batching(runner, AdaptivePolicy(N)) as batcher:
            with batcher.arrival(PATIENT) as arrival:
                # No handler here to see to its time.
                arrival.terms = type(PATIENT)(1.5, 1.5)
                tensors = [torch.tensor(value) for value in (-1.0, 2.0, 3.0, 4.0)]
                items = arrival.submit(tensors)
                errors = await answers_of([item.future for item in items])
            assert [type(error) for error in errors] == [DeadlineExceeded] * 4
        assert sizes(runner) == [4, 2]

    run_virtual(main)


# Who was guilty before.


def test_who_was_guilty_once_travels_alone_and_spares_its_neighbours_the_passes():
    async def main() -> None:
        runner = FakeRunner(rows=poisoned)
        async with batching(runner) as batcher:
            await answers_of(submit(batcher, -1.0))
            futures = [*submit(batcher, 1.0), *submit(batcher, -1.0), *submit(batcher, 2.0, 3.0)]
            one, error, *others = await answers_of(futures)
            assert (one, *others) == (10.0, 20.0, 30.0)
            assert isinstance(error, ModelFailed)
        assert values(runner) == [[-1.0], [1.0], [-1.0], [2.0, 3.0]]

    run_virtual(main)


def test_who_was_guilty_twice_is_refused_without_a_pass_until_that_is_forgotten():
    async def main() -> None:
        runner = FakeRunner(rows=poisoned)
        async with batching(runner) as batcher:
            await answers_of(submit(batcher, -1.0))
            await answers_of(submit(batcher, 5.0))
            await asyncio.sleep(1.0)
            await answers_of(submit(batcher, -1.0))
            assert len(runner.batches) == 3
            one, error, two = await answers_of(submit(batcher, 1.0, -1.0, 2.0))
            assert (one, two) == (10.0, 20.0)
            assert isinstance(error, ModelFailed)
            assert "twice" in str(error)
            assert values(runner)[3:] == [[1.0, 2.0]]
            await asyncio.sleep(FORGET_S + 1)
            await answers_of(submit(batcher, -1.0))
            assert values(runner)[4:] == [[-1.0]]
            await turns()
            check_empty(batcher)

    run_virtual(main)


def test_who_was_guilty_by_chance_is_cleared_when_it_succeeds():
    broken = [True]

    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if broken[0]:
            raise RuntimeError("not now")
        return tensors

    async def main() -> None:
        runner = FakeRunner(rows=rows)
        async with batching(runner) as batcher:
            await answers_of(submit(batcher, 1.0))
            broken[0] = False
            assert await answers_of(submit(batcher, 1.0)) == [1.0]
            assert await answers_of(submit(batcher, 1.0, 2.0)) == [1.0, 2.0]
            assert len(batcher.passes._quarantine) == 0
        assert sizes(runner) == [1, 1, 2]

    run_virtual(main)


def test_inputs_are_told_apart_by_shape_and_dtype_too():
    async def main() -> None:
        runner = FakeRunner(rows=poisoned)
        async with batching(runner) as batcher:
            for _ in range(2):
                await answers_of(submit(batcher, -1.0))
            with batcher.arrival(PATIENT) as arrival:
                others = [torch.tensor([-1.0]), torch.tensor(-1.0, dtype=torch.float64)]
                items = arrival.submit(others)
                await answers_of([item.future for item in items])
        assert len(runner.batches) == 4

    run_virtual(main)

"""Warm-up runs every size once before anybody waits, and picks the runner by measurement."""

import threading
import time

import pytest
import torch
from torch import Tensor, nn

from batchserve.batching.knee import disappoints, largest_that_pays
from batchserve.loading import Compiled
from batchserve.runners.base import OutOfMemory
from batchserve.runners.forward import Forward
from batchserve.runners.inline import InlineRunner
from batchserve.runners.thread import ThreadRunner
from batchserve.runners.warmup import (
    REQUEST_S,
    _compare,
    choose_runner,
    warm_up,
)
from batchserve.tasks.tensor import TensorTask
from tests.models import Double

CPU = torch.device("cpu")
EXAMPLE = torch.ones(3)
BIG = 16


class Recording(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.threads: set[str] = set()

    def forward(self, batch: Tensor) -> Tensor:
        self.sizes.append(len(batch))
        self.threads.add(threading.current_thread().name)
        return batch


class Slow(nn.Module):
    """Takes a millisecond of computing."""

    def forward(self, batch: Tensor) -> Tensor:
        for _ in range(300):
            batch = batch + torch.ones(1).sum()
        return batch


def forward_of(module: nn.Module) -> Forward:
    return Forward(module, TensorTask(), CPU, torch.float32)


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])]
)
def test_powers_of_two_and_the_largest_batch_are_warmed(most, sizes):
    module = Recording()
    seen = []
    seconds = warm_up(forward_of(module), EXAMPLE, most, lambda size, took: seen.append(size))
    assert list(seconds) == seen == sizes
    assert sorted(set(module.sizes)) == sizes
    assert all(took > 0 for took in seconds.values())


class Fits(Recording):
    """Runs out of memory above a size."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, batch: Tensor) -> Tensor:
        if len(batch) > self.largest:
            batch.new_empty(2**45)
        return super().forward(batch)


@pytest.mark.parametrize(
    ("per_item_s", "pays"),
    [
        ([10], 1),
        ([10, 8, 6, 5], 8),
        ([10, 9.4, 9.3, 9.2], 2),
        ([10, 9.6, 9.2, 9], 4),
        ([10, 10, 11], 1),
        ([10, 11, 9, 9, 9], 4),
    ],
)
def test_a_size_pays_that_beats_all_smaller_ones_by_a_twentieth(per_item_s, pays):
    seconds = {2**i: each_s * 2**i / 100 for i, each_s in enumerate(per_item_s)}
    assert largest_that_pays(seconds) == pays


@pytest.mark.parametrize(
    ("seconds", "disappointing"),
    [
        ({1: 0.1}, False),
        ({1: 0.1, 2: 0.2}, False),
        ({1: 0.1, 2: 0.2, 4: 0.4}, True),
        ({1: 0.1, 2: 0.2, 4: 0.3}, False),
        ({1: 0.1, 2: 0.1, 4: 0.2}, False),
        ({1: 0.1, 2: 0.1, 4: 0.2, 8: 0.4}, True),
    ],
)
def test_two_sizes_in_a_row_that_do_not_pay_disappoint(seconds, disappointing):
    assert disappoints(seconds) is disappointing


@pytest.fixture
def per_pass(monkeypatch):
    """Return a function that has passes take what the test says, by batch size."""

    def set_seconds(seconds) -> None:
        def timed(forward, items):
            forward(items)
            return seconds(len(items))

        monkeypatch.setattr("batchserve.runners.warmup.AtOnce.seconds", timed)

    return set_seconds


def test_the_largest_batch_that_pays_is_found(per_pass):
    # Up to 8 items cost what one does; from then on, each costs as much as the last.
    per_pass(lambda size: 0.01 * max(1, size / 8))
    module = Recording()
    seen = []
    seconds = warm_up(forward_of(module), EXAMPLE, None, lambda size, took: seen.append(size))
    assert seconds == {1: 0.01, 2: 0.01, 4: 0.01, 8: 0.01}
    # Only a pass that is not short can disappoint.
    assert seen == [1, 2, 4, 8, 16, 32, 64]


def test_what_a_busy_machine_has_spoilt_throughout_the_search_is_measured_again(monkeypatch):
    passes = []

    def timed(forward, items):
        passes.append(len(items))
        # Busy at first, whatever the size; quiet by the time that all sizes have been tried.
        return 0.01 if len(items) == 1 or max(passes) == BIG else 0.02 * len(items)

    monkeypatch.setattr("batchserve.runners.warmup.AtOnce.seconds", timed)
    monkeypatch.setattr("batchserve.runners.warmup.SHORT_PASS_S", 1.0)
    seconds = warm_up(forward_of(Recording()), EXAMPLE, None, most=BIG)
    assert seconds == dict.fromkeys([1, 2, 4, 8, 16], 0.01)


def test_batches_of_four_are_tried_and_used_where_none_pays(per_pass):
    per_pass(lambda size: 0.01 * size)
    assert list(warm_up(forward_of(Recording()), EXAMPLE, None)) == [1, 2, 4]
    assert list(warm_up(forward_of(Recording()), EXAMPLE, None, most=2)) == [1, 2]


def test_what_a_busy_machine_has_spoilt_is_measured_again(monkeypatch):
    measured = []

    def shortest_s(at_once, items):
        size = len(items)
        measured.append(size)
        return 1.0 if size in (2, 4) and measured.count(size) == 1 else 0.01

    monkeypatch.setattr("batchserve.runners.warmup.AtOnce.shortest_s", shortest_s)
    assert max(warm_up(forward_of(Recording()), EXAMPLE, None, most=16)) == 16
    assert measured == [1, 2, 4, 1, 2, 4, 8, 16]


def test_a_long_pass_ends_the_search_at_once(per_pass):
    per_pass(lambda size: 1.5 + size / 4)
    module = Recording()
    seconds = warm_up(forward_of(module), EXAMPLE, None)
    assert seconds == {1: 1.75, 2: 2.0, 4: 2.5}
    assert len(module.sizes) == 6


@pytest.mark.parametrize(("most", "largest"), [(256, 256), (100, 100), (1, 1)])
def test_the_search_has_an_end_where_everything_pays(per_pass, most, largest):
    per_pass(lambda size: 0.01)
    assert max(warm_up(forward_of(Recording()), EXAMPLE, None, most=most)) == largest


def test_the_shortest_of_at_least_two_passes_counts_and_a_slow_one_is_not_repeated(monkeypatch):
    times = iter([30.0, 3.0, 0.3, 0.2, 0.25])
    monkeypatch.setattr(
        "batchserve.runners.warmup.AtOnce.seconds", lambda forward, items: next(times)
    )
    assert warm_up(forward_of(Recording()), EXAMPLE, 2) == {1: 3.0, 2: 0.2}


@pytest.mark.parametrize(("stated", "sizes"), [(16, [1, 2]), (None, [1, 2])])
def test_a_size_that_does_not_fit_into_memory_ends_it(per_pass, stated, sizes):
    per_pass(lambda size: 0.01)
    seen = []
    seconds = warm_up(forward_of(Fits(3)), EXAMPLE, stated, lambda size, took: seen.append(size))
    assert list(seconds) == seen == sizes


@pytest.mark.parametrize("stated", [16, None])
def test_memory_that_does_not_suffice_for_one_item_is_an_error(stated):
    with pytest.raises(OutOfMemory, match="a batch of 1"):
        warm_up(forward_of(Fits(0)), EXAMPLE, stated)


def padded(module: nn.Module, size: int) -> Forward:
    return Forward(module, TensorTask(), CPU, torch.float32, pad_to=size)


@pytest.mark.parametrize(("size", "sizes"), [(6, [1, 6]), (1, [1])])
def test_where_every_batch_is_padded_there_is_one_size_to_warm(size, sizes):
    module = Recording()
    seen = []
    seconds = warm_up(padded(module, size), EXAMPLE, size, lambda size, took: seen.append(size))
    assert list(seconds) == sizes
    assert len(set(seconds.values())) == 1
    assert seen == [size]
    assert set(module.sizes) == {size}


def test_every_batch_must_fit_where_all_are_padded():
    with pytest.raises(OutOfMemory):
        warm_up(padded(Fits(3), 4), EXAMPLE, 4)


async def test_a_light_pass_runs_on_the_loop():
    runner = await choose_runner(forward_of(Double()), EXAMPLE, full_batch_s=20e-6, size=4)
    assert isinstance(runner, InlineRunner)
    rows = await runner.forward([EXAMPLE, EXAMPLE + 1])
    assert [row.tolist() for row in rows] == [[2, 2, 2], [4, 4, 4]]
    runner.close()


async def test_a_heavy_pass_runs_on_a_thread_of_its_own():
    module = Recording()
    runner = await choose_runner(forward_of(module), EXAMPLE, full_batch_s=0.5, size=4)
    assert isinstance(runner, ThreadRunner)
    rows = await runner.forward([EXAMPLE])
    assert rows[0].tolist() == EXAMPLE.tolist()
    assert module.threads == {"forward"}
    runner.close()


@pytest.mark.parametrize(
    ("apart_s", "beside_s", "runner"), [(3e-3, 2e-3, "thread"), (3e-3, 4e-3, "inline")]
)
async def test_a_doubtful_pass_is_measured(monkeypatch, apart_s, beside_s, runner):
    measured = []

    async def compare(forward, threaded, items):
        measured.append(len(items))
        return apart_s, beside_s

    monkeypatch.setattr("batchserve.runners.warmup._compare", compare)
    chosen = await choose_runner(forward_of(Double()), EXAMPLE, full_batch_s=1e-3, size=4)
    assert chosen.name == runner
    assert set(measured) == {4}
    chosen.close()


async def test_what_is_measured_is_a_pass_and_the_answers_to_its_batch():
    forward = forward_of(Slow())
    threaded = ThreadRunner(forward)
    apart_s, beside_s = await _compare(forward, threaded, [EXAMPLE] * 4)
    assert apart_s > 4 * REQUEST_S
    assert beside_s > 4 * REQUEST_S
    threaded.close()


async def test_beside_many_answers_a_light_pass_is_not_worth_a_thread():
    runner = await choose_runner(forward_of(Double()), EXAMPLE, full_batch_s=0.7e-3, size=64)
    assert isinstance(runner, InlineRunner)
    runner.close()


async def test_passes_that_run_at_the_same_time_do_so_on_threads():
    forward = forward_of(Double())
    forward.streams = 2
    runner = await choose_runner(forward, EXAMPLE, full_batch_s=1e-5, size=4)
    assert isinstance(runner, ThreadRunner)
    assert runner.streams == 2
    runner.close()


def test_of_passes_that_run_at_the_same_time_so_many_are_timed():
    class Counts(nn.Module):
        together = most = 0

        def forward(self, batch: Tensor) -> Tensor:
            self.together += 1
            self.most = max(self.most, self.together)
            time.sleep(0.02)
            self.together -= 1
            return batch

    module = Counts()
    forward = forward_of(module)
    forward.streams = 3
    assert min(warm_up(forward, EXAMPLE, 2).values()) > 0.01
    assert module.most == 3


@pytest.mark.parametrize(("largest", "sizes"), [(4, [1, 2]), (1, [1])])
def test_what_is_compiled_for_a_lone_batch_is_compiled_before_anybody_waits(largest, sizes):
    seen = []

    class Noting(Compiled):
        def compile_what_comes(self, *, fixed_shape: bool = False) -> None:
            pass

        def forward(self, batch: Tensor) -> Tensor:
            seen.append((torch.get_num_threads(), len(batch)))
            return batch

    forward = forward_of(Noting(Double()))
    forward.streams, forward.threads, forward.all_threads = 2, 1, 2
    warm_up(forward, EXAMPLE, largest)
    assert [size for threads, size in seen if threads == 2] == sizes


async def test_without_an_example_a_thread_is_safe():
    runner = await choose_runner(forward_of(Double()), None, full_batch_s=0.0, size=4)
    assert isinstance(runner, ThreadRunner)
    runner.close()


async def test_an_exception_of_the_model_comes_through_either_runner():
    class Broken(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise ZeroDivisionError

    for runner in (InlineRunner(forward_of(Broken())), ThreadRunner(forward_of(Broken()))):
        with pytest.raises(ZeroDivisionError):
            await runner.forward([EXAMPLE])
        runner.close()

"""Warm-up runs every size once before anybody waits, and picks the runner by measurement."""

import threading

import pytest
import torch
from torch import Tensor, nn

from batchserve.runners.forward import Forward
from batchserve.runners.inline import InlineRunner
from batchserve.runners.thread import ThreadRunner
from batchserve.runners.warmup import choose_runner, warm_up
from batchserve.tasks.tensor import TensorTask
from tests.models import Double

CPU = torch.device("cpu")
EXAMPLE = torch.ones(3)


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


async def test_a_doubtful_pass_is_measured(monkeypatch):
    # However noisy the machine is: a millisecond of computing is over any hand-over of 0 s.
    monkeypatch.setattr("batchserve.runners.warmup.LOOP_BUDGET_S", 0.0)
    measured = []

    async def compare(forward, threaded, items):
        measured.append(len(items))
        return 1e-3, 1e-3

    monkeypatch.setattr("batchserve.runners.warmup._compare", compare)
    runner = await choose_runner(forward_of(Slow()), EXAMPLE, full_batch_s=1e-3, size=4)
    assert isinstance(runner, ThreadRunner)
    assert set(measured) == {4}
    runner.close()


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

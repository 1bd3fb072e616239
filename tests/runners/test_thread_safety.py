"""Models of which passes may run at the same time."""

import time
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from batchserve.runners.base import OutOfMemory
from batchserve.runners.forward import Forward
from batchserve.runners.reproducible import like
from batchserve.runners.thread_safety import (
    NotSafe,
    are_known,
    check_thread_safety,
    may_run_at_once,
)
from batchserve.tasks.tensor import TensorTask

CPU = torch.device("cpu")
ITEMS = like(torch.zeros(3), 8)


SHELF: list[Tensor] = []


class Plain(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return 2 * batch


def forward_of(module: nn.Module, threads: int = 2, **kwargs) -> Forward:
    task = kwargs.pop("task", None) or TensorTask((3,))
    return Forward(module, task, CPU, torch.float32, threads=threads, **kwargs)


def test_memory_that_does_not_suffice_is_no_verdict():
    class Greedy(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise MemoryError

    with pytest.raises(OutOfMemory, match="batch of 2"):
        check_thread_safety(forward_of(Greedy()), ITEMS)


def test_made_up_items_may_be_nothing_that_the_model_takes():
    class Picky(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise IndexError("index out of range in self")

    with pytest.raises(NotSafe, match="the trial failed: IndexError"):
        check_thread_safety(forward_of(Picky()), ITEMS)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.passes += 1
        return batch


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    ("make", "known"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()), True),
        (torchvision.models.squeezenet1_1, True),
        (lambda: nn.Sequential(nn.Linear(3, 3), Plain()), False),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), Plain())), True),
        (lambda: torch.jit.script(nn.Sequential(Scripted())), False),
    ],
)
def test_torchs_own_modules_are_known_and_scripts_by_their_code(make, known):
    assert are_known(make(), TensorTask((3,))) is known


class Names(TensorTask):
    """Changes what a row is said to be, and nothing of a batch."""

    def encode(self, row: Tensor, parameters: Any) -> Any:
        return {"name": super().encode(row, parameters)}


class Scales(TensorTask):
    """Keeps something of a batch from before the module until after it."""

    def preprocess(self, batch: Tensor) -> Tensor:
        self.most = batch.abs().amax()
        return batch / self.most

    def postprocess(self, output: Tensor) -> Tensor:
        return output * self.most


@pytest.mark.parametrize(("task", "known"), [(Names, True), (Scales, False)])
def test_tasks_are_known_that_leave_batches_to_batchserve(task, known):
    assert are_known(nn.Linear(3, 3), task((3,))) is known


def test_a_task_that_keeps_something_of_a_batch_is_found_out():
    with pytest.raises(NotSafe, match=r"something of a pass is kept \(task.most\)"):
        check_thread_safety(forward_of(Plain(), task=Scales((3,))), ITEMS)


class OfTheBatch(Plain):
    """Keeps, where nobody looks, only what all items of a batch have in common."""

    def forward(self, batch: Tensor) -> Tensor:
        SHELF[:] = [batch.mean()]
        time.sleep(0.02)
        return super().forward(batch - SHELF[0])


def test_what_is_kept_of_a_batch_differs_from_batch_to_batch():
    with pytest.raises(NotSafe, match="answers differ by"):
        check_thread_safety(forward_of(OfTheBatch()), ITEMS)


def test_two_items_are_enough_for_a_model_that_takes_one():
    class One(Plain):
        def forward(self, batch: Tensor) -> Tensor:
            assert len(batch) == 1
            return super().forward(batch)

    check_thread_safety(forward_of(One()), ITEMS[:2])


class Remembers(Plain):
    last: Tensor | None = None

    def forward(self, batch: Tensor) -> Tensor:
        self.last = batch
        return super().forward(self.last)


class Counts(Plain):
    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, batch: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(batch)


class Lists(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append(len(batch))
        return super().forward(batch)


class Collects(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Lists()

    def forward(self, batch: Tensor) -> Tensor:
        doubled: Tensor = self.inner(batch)
        return doubled


class KeepsElsewhere(Plain):
    """Puts its input where the next pass finds it, and nobody who looks at the module."""

    def forward(self, batch: Tensor) -> Tensor:
        SHELF[:] = [batch]
        time.sleep(0.02)
        return super().forward(SHELF[0])


class Knows(Plain):
    """Keeps what it has computed once, and a number that stays what it was."""

    table: Tensor | None = None

    def forward(self, batch: Tensor) -> Tensor:
        self.scale = float(batch.shape[1]) ** 0.5
        if self.table is None:
            self.table = torch.ones(3)
        return batch * self.table


class Averages(Plain):
    """Lets an item's answer depend on its neighbours."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch - batch.mean()


class Tuples(nn.Module):
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        return batch, batch


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Remembers, r"something of a pass is kept \(last\)"),
        (Counts, r"something of a pass is kept \(passes\)"),
        (Collects, r"something of a pass is kept \(inner.seen\)"),
        (KeepsElsewhere, "the trial failed: RowCountError"),
    ],
)
def test_what_keeps_something_of_a_pass_is_found_out(make, reason):
    with pytest.raises(NotSafe, match=reason):
        check_thread_safety(forward_of(make()), ITEMS)


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        Plain,
        Averages,
        Tuples,
        Knows,
        lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))),
    ],
)
def test_whatever_keeps_nothing_is_safe(make):
    check_thread_safety(forward_of(make().eval()), ITEMS)


def test_hooks_may_keep_what_nobody_sees():
    module = nn.Sequential(Plain())
    module[0].register_forward_hook(lambda *_: None)
    with pytest.raises(NotSafe, match="hook"):
        check_thread_safety(forward_of(module), ITEMS)


@pytest.mark.parametrize(
    ("kwargs", "may"),
    [
        ({}, True),
        ({"threads": 1}, False),
        ({"pad_to": 8}, False),
        ({"task": TensorTask()}, False),  # a new shape may be met by two threads at once
    ],
)
def test_where_there_is_something_to_choose(kwargs, may):
    assert may_run_at_once(forward_of(Plain(), **kwargs)) is may

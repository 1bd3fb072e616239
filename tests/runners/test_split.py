"""Batches in parts, each on a core of its own."""

import gc
import threading
import time
import weakref
from contextlib import suppress

import pytest
import torch
import torchvision
from torch import Tensor, nn

from batchserve.runners.base import OutOfMemory
from batchserve.runners.forward import Forward
from batchserve.runners.reproducible import like
from batchserve.runners.split import Split, has_rows, pays
from batchserve.runners.split_choice import NotSplit, choose_split, is_known, may_split
from batchserve.tasks.tensor import TensorTask

CPU = torch.device("cpu")
ITEMS = like(torch.zeros(3), 8)


class Doubles(nn.Module):
    """Notes what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []  # rows and threads

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append((len(batch), torch.get_num_threads()))
        return 2 * batch


class Plain(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return 2 * batch


def forward_of(module: nn.Module, threads: int = 2, **kwargs) -> Forward:
    task = kwargs.pop("task", None) or TensorTask((3,))
    return Forward(module, task, CPU, torch.float32, threads=threads, **kwargs)


@pytest.fixture
def gains(monkeypatch):
    """Return a function that has parts be so many times as fast as the test says."""

    def set_gain(gain: float) -> None:
        monkeypatch.setattr(
            "batchserve.runners.split_choice._gain", lambda _forward, _items, _split: gain
        )

    return set_gain


@pytest.mark.parametrize(
    ("rows", "cores", "parts"),
    [
        (8, 2, [(4, 1), (4, 1)]),
        (5, 2, [(2, 1), (3, 1)]),
        (2, 4, [(1, 1), (1, 1)]),
        (7, 3, [(2, 1), (2, 1), (3, 1)]),
        (1, 2, [(1, 1)]),
    ],
)
def test_all_cores_get_a_part_and_rows_keep_their_order(rows, cores, parts):
    module = Doubles()
    batch = torch.arange(rows * 3.0).reshape(rows, 3)
    output = Split(cores)(module, batch, rows, cores)
    assert torch.equal(output, 2 * batch)
    assert sorted(module.seen) == parts


def test_parts_are_computed_at_the_same_time_and_without_gradients():
    together = threading.Barrier(2)

    def compute(part: Tensor) -> Tensor:
        together.wait(10)
        assert torch.is_inference_mode_enabled()
        return part

    assert len(Split(2)(compute, torch.zeros(4, 1), 4, 2)) == 4


def test_structures_are_split_tensor_by_tensor():
    inputs = {"ids": torch.arange(4), "mask": torch.ones(4, 2)}
    output = Split(2)(lambda part: part["ids"][:, None] * part["mask"], inputs, 4, 2)
    assert output.tolist() == [[i, i] for i in range(4)]


@pytest.mark.parametrize(
    ("value", "are"),
    [
        (torch.zeros(4, 2), True),
        ({"a": torch.zeros(4), "b": (torch.zeros(4, 1),)}, True),
        ({"a": torch.zeros(4), "b": torch.zeros(5)}, False),
        (torch.tensor(4.0), False),
        ([], False),
        (None, False),
    ],
)
def test_rows_are_those_of_every_tensor(value, are):
    assert has_rows(value, 4) is are


@pytest.mark.parametrize(
    ("rows", "cores", "are"),
    [
        (8, 1, False),
        (1, 2, False),
        (2, 2, True),
        (3, 2, True),
        (11, 16, False),
        (12, 16, True),
        (17, 16, False),
        (24, 16, True),
    ],
)
def test_parts_pay_where_few_cores_are_left_idle(rows, cores, are):
    assert pays(rows, cores) is are


def test_a_batch_is_computed_whole_where_what_comes_of_a_row_depends_on_the_others():
    def trimmed(part: Tensor) -> Tensor:
        return part[:, : int(part.max())]

    batch = torch.tensor([[1, 1, 0], [1, 2, 0], [1, 1, 0], [3, 1, 1]])
    assert torch.equal(Split(2)(trimmed, batch, 4, 2), batch)


def test_rows_that_are_missing_in_one_part_are_not_made_up_by_another():
    def shifted(part: Tensor) -> Tensor:
        return part[1:] if len(part) == 4 else part if part[0] == 0 else torch.cat([part, part[:1]])

    assert len(Split(2)(shifted, torch.arange(4), 4, 2)) == 3


def test_of_a_part_that_failed_nothing_is_held():
    kept = []

    def compute(part: Tensor) -> Tensor:
        kept.append(weakref.ref(part))
        raise ValueError("no")

    split = Split(2)
    gc.disable()
    try:
        with suppress(ValueError):
            split(compute, torch.zeros(2), 2, 2)
        assert len(kept) == 2
        until_s = time.monotonic() + 5
        while any(ref() is not None for ref in kept) and time.monotonic() < until_s:
            time.sleep(0.001)  # the threads may not have let go of it yet
        assert not any(ref() is not None for ref in kept)
    finally:
        gc.enable()


def test_an_error_comes_through_when_all_parts_have_ended():
    ended = threading.Event()

    def compute(part: Tensor) -> Tensor:
        if part[0]:
            time.sleep(0.05)
            ended.set()
            return part
        raise ValueError("no")

    split = Split(2)
    with pytest.raises(ValueError, match="no"):
        split(compute, torch.tensor([0, 1]), 2, 2)
    assert ended.is_set()
    assert torch.equal(split(torch.neg, torch.ones(2), 2, 2), -torch.ones(2))


def test_memory_that_does_not_suffice_for_a_part_did_not_for_the_batch():
    class Greedy(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise MemoryError

    forward = forward_of(Greedy())
    forward.split = Split(2)
    with pytest.raises(OutOfMemory, match="batch of 8"):
        forward(ITEMS)


def test_threads_end_with_the_last_who_could_use_them():
    before = set(threading.enumerate())
    split = Split(3)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    del split
    gc.collect()
    for thread in mine:
        thread.join(5)
        assert not thread.is_alive()


def test_a_pass_is_computed_in_parts_once_that_is_chosen(gains):
    gains(1.2)
    forward = forward_of(Plain())
    expected = forward(ITEMS)
    assert choose_split(forward, ITEMS) == 1.2
    assert forward.split is not None
    assert torch.equal(torch.stack(forward(ITEMS)), torch.stack(expected))


def test_a_lone_item_and_a_pass_on_one_thread_stay_whole():
    module = Doubles()
    forward = forward_of(module)
    forward.split = Split(2)
    forward(ITEMS[:1])
    forward.threads = 1
    forward(ITEMS)
    assert module.seen == [(1, 2), (8, 1)]


@pytest.mark.parametrize(("gain", "used"), [(1.0, True), (0.96, True), (0.9, False)])
def test_parts_may_be_a_little_slower_while_nothing_else_happens(gains, gain, used):
    gains(gain)
    forward = forward_of(Plain())
    if used:
        choose_split(forward, ITEMS)
    else:
        with pytest.raises(NotSplit, match=r"0\.90 times as fast"):
            choose_split(forward, ITEMS)
    assert (forward.split is not None) == used


@pytest.mark.parametrize(("whole_s", "part_s", "used"), [(0.02, 0.005, True), (0.005, 0.02, False)])
def test_it_is_really_measured(whole_s, part_s, used):
    class Takes(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            time.sleep(whole_s if len(batch) == len(ITEMS) else part_s)
            return batch

    forward = forward_of(Takes())
    if used:
        assert choose_split(forward, ITEMS) > 2
    else:
        with pytest.raises(NotSplit, match="times as fast"):
            choose_split(forward, ITEMS)
    assert (forward.split is not None) == used


def test_made_up_items_may_be_nothing_that_the_model_takes():
    class Picky(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise IndexError("index out of range in self")

    with pytest.raises(NotSplit, match="the trial failed: IndexError"):
        choose_split(forward_of(Picky()), ITEMS)


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
    assert is_known(make()) is known


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


class Collects(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Doubles()

    def forward(self, batch: Tensor) -> Tensor:
        doubled: Tensor = self.inner(batch)
        return doubled


class Averages(Plain):
    """Lets an item's answer depend on its neighbours."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch - batch.mean()


class Tuples(nn.Module):
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        return batch, batch


class Knows(Plain):
    """Keeps what it has computed once, and a number that stays what it was."""

    table: Tensor | None = None

    def forward(self, batch: Tensor) -> Tensor:
        self.scale = float(batch.shape[1]) ** 0.5
        if self.table is None:
            self.table = torch.ones(3)
        return batch * self.table


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Remembers, r"keeps something of a pass \(last\)"),
        (Counts, r"keeps something of a pass \(passes\)"),
        (Collects, r"keeps something of a pass \(inner.seen\)"),
        (Averages, "answers differ"),
        (Tuples, "something else than a row for each item"),
    ],
)
def test_what_cannot_be_called_from_two_threads_stays_whole(gains, make, reason):
    gains(2.0)
    forward = forward_of(make())
    with pytest.raises(NotSplit, match=reason):
        choose_split(forward, ITEMS)
    assert forward.split is None


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    "make", [Knows, lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))]
)
def test_what_is_computed_once_is_no_hindrance(gains, make):
    gains(2.0)
    forward = forward_of(make().eval())
    choose_split(forward, ITEMS)
    assert forward.split is not None


def test_hooks_may_keep_what_nobody_sees(gains):
    gains(2.0)
    module = nn.Sequential(Plain())
    module[0].register_forward_hook(lambda *_: None)
    with pytest.raises(NotSplit, match="hook"):
        choose_split(forward_of(module), ITEMS)


@pytest.mark.parametrize(
    ("kwargs", "items", "may"),
    [
        ({}, ITEMS, True),
        ({"threads": 1}, ITEMS, False),
        ({"pad_to": 8}, ITEMS, False),
        ({}, ITEMS[:1], False),
        ({"threads": 16}, ITEMS, False),
        ({"task": TensorTask()}, ITEMS, False),  # a new shape may be met by two threads at once
    ],
)
def test_where_there_is_something_to_choose(kwargs, items, may):
    assert may_split(forward_of(Plain(), **kwargs), items) is may

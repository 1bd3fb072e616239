"""Batches to a device and answers back, on a lane that is late as a device is."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from batchserve.config import ImageConfig
from batchserve.runners.base import DeviceLost
from batchserve.runners.forward import Forward
from batchserve.runners.transfer import Streamed, Transfer, stacks, transfer_for
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask
from tests.models import Double, MeanColour, Splits, tiny

CPU = torch.device("cpu")


class LateLane:
    """Answers are there only after `wait`, as on CUDA; `pinned` is what it has given away.

    Args:
        fails: which of the methods do.
    """

    def __init__(self, *fails: str) -> None:
        self.fails = set(fails)
        self.pinned_shapes: list[tuple[int, ...]] = []
        self.pinned_pointers: set[int] = set()
        self.copied_from_pinned: list[bool] = []
        self.waits = 0
        self.is_entered = False
        self._queue: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def entered(self):
        self.is_entered = True
        yield
        self.is_entered = False

    def pinned(self, shape, dtype) -> Tensor:
        self._try("pinned")
        made = torch.empty(shape, dtype=dtype)
        self.pinned_shapes.append(tuple(shape))
        self.pinned_pointers.add(made.data_ptr())
        return made

    def to_device(self, tensor: Tensor) -> Tensor:
        assert self.is_entered
        self.copied_from_pinned.append(tensor.data_ptr() in self.pinned_pointers)
        return tensor.clone()

    def to_host(self, tensor: Tensor) -> Tensor:
        self._try("to_host")
        assert self.is_entered
        late = torch.full_like(tensor, -1)
        self._queue.append((late, tensor))
        return late

    def wait(self) -> None:
        self._try("wait")
        self.waits += 1
        for late, tensor in self._queue:
            late.copy_(tensor)
        self._queue.clear()

    def _try(self, name: str) -> None:
        if name in self.fails:
            raise RuntimeError(f"CUDA error: {name}")


def forward_by(lane: LateLane, module: nn.Module, task: Any = None) -> Forward:
    return Forward(
        module.eval(), task or TensorTask(), CPU, torch.float32, transfer=Streamed(CPU, lane)
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_answers_are_those_of_the_plain_pass_and_stay_so(sizes):
    module, lane = tiny(), LateLane()
    forward = forward_by(lane, module)
    plain = Forward(module.eval(), TensorTask(), CPU, torch.float32)
    batches = [[torch.randn(10) for _ in range(size)] for size in sizes]
    answers = [forward(batch) for batch in batches]
    # Only now, after all later passes: nobody has written into what was given away.
    for batch, rows in zip(batches, answers, strict=True):
        torch.testing.assert_close(torch.stack(rows), torch.stack(plain(batch)))


def test_a_batch_is_stacked_right_into_pinned_memory_and_waited_for_once():
    lane = LateLane()
    rows = forward_by(lane, Splits())([torch.ones(3)] * 4)
    assert (lane.pinned_shapes, lane.copied_from_pinned, lane.waits) == ([(4, 3)], [True], 1)
    assert [part.tolist() for part in rows[0]] == [[1, 1, 1], [2, 2, 2]]


def test_pixels_travel_as_eight_bits():
    lane, task = LateLane(), ImageClassification(ImageConfig(resize=8, crop=8))
    rows = forward_by(lane, MeanColour(), task)([task.example()] * 2)
    assert lane.pinned_shapes == [(2, 8, 8, 3)]
    assert [row.shape for row in rows] == [(3,)] * 2


class Named(TensorTask):
    def collate(self, items):
        return {"batch": torch.stack(list(items)).flip(1)}


def test_what_a_task_collates_itself_is_pinned_afterwards():
    lane = LateLane()
    rows = forward_by(lane, Double(), Named())([torch.tensor([1.0, 2.0])] * 2)
    assert (lane.pinned_shapes, lane.copied_from_pinned) == ([(2, 2)], [True])
    assert rows[0].tolist() == [4, 2]


def test_only_items_of_one_kind_are_stacked_by_somebody_else():
    ones = torch.ones(2)
    assert stacks(TensorTask(), [ones, ones])
    assert not stacks(Named(), [ones, ones])
    assert not stacks(TensorTask(), [ones, ones.long()])
    assert not stacks(TensorTask(), [ones, torch.ones(1)])


def test_answers_are_copied_on_the_lane_in_any_case(monkeypatch):
    lane, copied, cpu = LateLane("to_host"), [], Tensor.cpu

    def copy(tensor: Tensor) -> Tensor:
        copied.append(lane.is_entered)
        return cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", copy)
    forward_by(lane, Double())([torch.ones(1)])
    assert copied[0]


@pytest.mark.parametrize("fails", ["pinned", "to_host"])
def test_without_pinned_memory_it_goes_on_as_usual(fails, caplog):
    lane = LateLane(fails)
    forward = forward_by(lane, Double())
    for number in (1.0, 2.0):
        (row,) = forward([torch.tensor([number])])
        assert row.item() == 2 * number
    assert len(caplog.records) == 1
    assert f"pinned memory is not used any more: CUDA error: {fails}" in caplog.text


def test_what_fails_on_the_device_fails_the_pass():
    lane = LateLane("wait")
    forward = Forward(
        Double(), TensorTask(), torch.device("meta"), torch.float32, transfer=Streamed(CPU, lane)
    )
    with pytest.raises(DeviceLost) as caught:
        forward([torch.ones(1)])
    assert "wait" in str(caught.value.__cause__)


def test_only_cuda_has_lanes():
    made = []

    def make(device):
        made.append(device.type)
        return LateLane()

    kinds = {name: type(transfer_for(torch.device(name), make)) for name in ("cpu", "mps", "cuda")}
    assert kinds == {"cpu": Transfer, "mps": Transfer, "cuda": Streamed}
    assert made == ["cuda"]


def test_where_cuda_gives_no_stream_the_default_one_serves(caplog):
    # As it is here: there is no GPU.
    if torch.cuda.is_available():
        pytest.skip("CUDA does give one")
    assert type(transfer_for(torch.device("cuda"))) is Transfer
    assert "passes share the default stream" in caplog.text

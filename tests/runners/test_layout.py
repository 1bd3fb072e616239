"""The order of images in memory is chosen by what is faster, where the answers are the same."""

import pytest
import torch
from torch import Tensor, nn

from batchserve.runners.forward import Forward
from batchserve.runners.layout import choose_layout
from batchserve.runners.reproducible import like
from batchserve.tasks.tensor import TensorTask

CPU = torch.device("cpu")
ITEMS = like(torch.zeros(3, 8, 8), 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.conv(batch)
        return out

    @property
    def by_pixel(self) -> bool:
        return self.conv.weight.is_contiguous(memory_format=torch.channels_last)


class Views(Net):
    """Needs its images plane by plane, as many a model does unawares."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch).view(len(batch), -1)


class Peeks(Net):
    """Lets its answer depend on the order in memory."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) + float(self.by_pixel)


def forward_of(module: nn.Module, dtype: torch.dtype = torch.float32) -> Forward:
    return Forward(module.eval().to(dtype), TensorTask(), CPU, dtype, threads=2)


@pytest.fixture
def gains(monkeypatch):
    """Return a function that has it be so many times as fast as the test says."""

    def set_gain(gain: float) -> None:
        monkeypatch.setattr("batchserve.runners.layout._gain", lambda _forward, _items: gain)

    return set_gain


@pytest.mark.parametrize(("gain", "used"), [(1.3, True), (1.05, False), (0.7, False)])
def test_the_faster_order_is_used_if_it_saves_a_tenth(gains, gain, used):
    gains(gain)
    module = Net()
    forward = forward_of(module)
    expected = torch.stack(forward(ITEMS))
    trial = choose_layout(forward, ITEMS)
    assert trial is not None
    assert (trial.channels_last, trial.gain, module.by_pixel) == (used, gain, used)
    assert forward.threads == 2
    torch.testing.assert_close(torch.stack(forward(ITEMS)), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("make", [Net, lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))])
def test_it_is_really_measured(make):
    forward = forward_of(make())
    trial = choose_layout(forward, ITEMS)
    assert trial is not None
    assert trial.gain is not None
    assert 0 < trial.gain < 1000
    assert trial.difference < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_measuring_it_is_used_where_answers_are_the_same(dtype):
    module = Net()
    trial = choose_layout(forward_of(module, dtype), ITEMS, measure=False)
    assert trial is not None
    assert (trial.channels_last, trial.gain, module.by_pixel) == (True, None, True)


def test_a_model_that_fails_with_it_is_served_as_it_was():
    module = Views()
    forward = forward_of(module)
    assert choose_layout(forward, ITEMS) is None
    assert not module.by_pixel
    assert len(forward(ITEMS)) == 4
    assert forward.threads == 2


def test_a_model_that_answers_otherwise_is_served_as_it_was(gains):
    gains(5)
    module = Peeks()
    trial = choose_layout(forward_of(module), ITEMS)
    assert trial is not None
    assert (trial.channels_last, trial.gain, module.by_pixel) == (False, None, False)

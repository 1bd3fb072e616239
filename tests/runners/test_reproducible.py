"""In batches of one size, an answer is the same to the bit in whatever company."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchserve.config import ImageConfig
from batchserve.runners.forward import Forward
from batchserve.runners.reproducible import is_reproducible
from batchserve.runners.thread import ThreadRunner
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask
from tests.models import Double

SIZE = 8
VECTOR = torch.zeros(256)
PICTURE = torch.zeros(3, 64, 64)


def linear_stack() -> nn.Module:
    return nn.Sequential(
        nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 64)
    )


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 64),
    )


REAL = [
    pytest.param(linear_stack, VECTOR, id="linear"),
    pytest.param(conv_net, PICTURE, id="conv"),
]


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def forward_of(module: nn.Module, pad_to: int | None = SIZE) -> Forward:
    return Forward(module.eval(), TensorTask(), torch.device("cpu"), torch.float32, pad_to)


def answers(
    forward: Forward, item: Tensor, sizes: Sequence[int], places: Sequence[int]
) -> set[bytes]:
    """Return the different bits that an item gets among random others."""
    found = set()
    for size in sizes:
        for place in (place for place in places if place < size):
            items = [torch.randn(item.shape) for _ in range(size)]
            items[place] = item
            found.add(forward(items)[place].numpy().tobytes())
    return found


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("make", "example"), REAL)
def test_padded_answers_are_the_same_to_the_bit(make, example):
    torch.manual_seed(0)
    forward = forward_of(make())
    item = torch.randn(example.shape)
    assert len(answers(forward, item, range(1, SIZE + 1), range(SIZE))) == 1
    assert is_reproducible(forward, example, SIZE)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("make", "example"), REAL)
def test_it_is_worth_the_trouble_without_padding_they_differ(make, example):
    torch.manual_seed(0)
    forward = forward_of(make(), pad_to=None)
    if len(answers(forward, torch.randn(example.shape), [1, 2, 4, 8, 16], [0])) == 1:
        pytest.skip("this machine rounds alike at every size")


async def test_the_thread_of_the_runner_gives_the_bits_of_any_other():
    torch.manual_seed(0)
    forward = forward_of(linear_stack())
    item = torch.randn(256)
    runner = ThreadRunner(forward)
    (row,) = await runner.forward([item])
    assert torch.equal(row, forward([item])[0])
    runner.close()


class ByPlace(nn.Module):
    """Gives items in the second half of a batch a little more."""

    def forward(self, batch: Tensor) -> Tensor:
        place = torch.arange(len(batch)).view(-1, *[1] * (batch.ndim - 1))
        return torch.where(place < len(batch) / 2, batch, torch.nextafter(batch, batch + 1))


class ByNeighbours(nn.Module):
    """Takes the scale of the whole batch, as quantisation on the fly does."""

    def forward(self, batch: Tensor) -> Any:
        return {"scaled": batch / batch.abs().max()}


class ByChance(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return batch + torch.rand(1)


@pytest.mark.parametrize("module", [ByPlace(), ByNeighbours(), ByChance()])
def test_what_depends_on_more_than_the_item_is_found_out(module):
    assert not is_reproducible(forward_of(module), VECTOR, SIZE)


def test_pixels_are_tried_with_random_ones_too():
    task = ImageClassification(ImageConfig(resize=8, crop=8))
    seen = []

    class Look(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            seen.append(batch)
            return batch.mean(dim=(2, 3))

    forward = Forward(Look(), task, torch.device("cpu"), torch.float32, SIZE)
    assert is_reproducible(forward, task.example(), SIZE)
    assert all(batch.std() > 0.1 for batch in seen)


@pytest.mark.parametrize("size", [1, 3])
def test_other_integers_than_the_examples_are_not_guessed(size):
    module = nn.Embedding(4, 8)
    assert is_reproducible(forward_of(module, size), torch.tensor([3, 0]), size)


def test_nan_is_the_same_as_nan():
    class Roots(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return batch.sqrt()

    assert is_reproducible(forward_of(Roots()), VECTOR, SIZE)


def test_the_random_numbers_of_others_stay_theirs():
    state = torch.get_rng_state()
    is_reproducible(forward_of(Double()), VECTOR, SIZE)
    assert torch.equal(torch.get_rng_state(), state)

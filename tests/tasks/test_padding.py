"""Sequences of different lengths share batches, and their answers stay those of each alone."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor, nn

from batchserve.runners.forward import Forward
from batchserve.tasks.base import Task
from batchserve.tasks.padding import SHORTEST, attention_mask, pad_stack, padded_length

LENGTHS = st.integers(SHORTEST, 10**9)


class MeanOfWords(nn.Module):
    """The mean of the tokens' embeddings, through a layer: (n, length) tokens to (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(1000, 32)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 5))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[:, :, None]
        words = (self.embedding(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
        return self.head(words)  # type: ignore[no-any-return]


class Tokens(Task):
    """Token numbers in, scores out."""

    def decode(self, payload: Any) -> Tensor:
        return torch.tensor(payload)

    def encode(self, row: Any, parameters: BaseModel) -> Any:
        return row.tolist()

    def bucket_key(self, item: Tensor) -> int:
        return padded_length(len(item))

    def collate(self, items: Any) -> dict[str, Tensor]:
        length = self.bucket_key(items[0])
        return {
            "input_ids": pad_stack(items, length),
            "attention_mask": attention_mask(items, length),
        }


def texts(count: int) -> list[Tensor]:
    """Lengths as those of questions and paragraphs are: log-normal, about 60 tokens."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(np.log(60), 0.8, count).clip(1, 512).astype(int)
    return [torch.from_numpy(random.integers(1, 1000, length)) for length in lengths]


@given(LENGTHS)
def test_less_than_a_quarter_is_added(length: int):
    assert length <= padded_length(length) < 1.25 * length


@given(LENGTHS)
def test_a_length_that_was_rounded_stays(length: int):
    padded = padded_length(length)
    assert padded_length(padded) == padded


@given(LENGTHS, LENGTHS)
def test_a_longer_item_gets_no_shorter_row(one: int, other: int):
    shorter, longer = sorted((one, other))
    assert padded_length(shorter) <= padded_length(longer)


@given(st.integers(4, 12))
def test_there_are_four_lengths_from_one_power_of_two_to_the_next(exponent: int):
    low, high = 2**exponent, 2 ** (exponent + 1)
    assert len({padded_length(length) for length in range(low + 1, high + 1)}) == 4


def test_so_few_lengths_up_to_512():
    lengths = sorted({padded_length(length) for length in range(513)})
    assert lengths[:10] == [16, 20, 24, 28, 32, 40, 48, 56, 64, 80]
    assert len(lengths) == 1 + 4 * 5


@pytest.mark.parametrize(
    ("length", "bounds", "padded"),
    [
        (0, {}, 16),
        (1, {}, 16),
        (1, {"shortest": 1}, 1),
        (2, {"shortest": 1}, 2),
        (3, {"shortest": 1}, 3),
        (5, {"shortest": 1}, 5),
        (9, {"shortest": 1}, 10),
        (77, {"longest": 77}, 77),
        (70, {"longest": 77}, 77),
        (65, {"longest": 512}, 80),
        (3, {"longest": 8}, 8),
    ],
)
def test_the_shortest_and_the_longest(length, bounds, padded):
    assert padded_length(length, **bounds) == padded


def test_items_are_filled_up_with_the_value():
    items = [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([], dtype=torch.int64)]
    assert pad_stack(items, 3, value=9).tolist() == [[1, 2, 9], [3, 9, 9], [9, 9, 9]]
    assert attention_mask(items, 3).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert attention_mask(items, 3).dtype == torch.int64


def test_further_dimensions_and_the_dtype_stay():
    batch = pad_stack([torch.ones(2, 5), torch.ones(3, 5)], 4)
    assert (batch.shape, batch.dtype) == ((2, 4, 5), torch.float32)
    assert batch.sum(dim=(1, 2)).tolist() == [10, 15]


def test_an_item_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="length 3 does not fit in 2"):
        pad_stack([torch.ones(3)], 2)


def test_texts_of_different_lengths_share_a_pass_and_get_the_answer_they_get_alone():
    task, module = Tokens(), MeanOfWords().eval()
    forward = Forward(module, task, torch.device("cpu"), torch.float32)
    by_key = groupby(sorted(texts(200), key=task.bucket_key), key=task.bucket_key)
    buckets = [list(items) for _, items in by_key]
    assert len(buckets) < 200 / 8
    assert max(len({len(item) for item in items}) for items in buckets) > 1
    for items in buckets:
        for item, row in zip(items, forward(items), strict=True):
            with torch.inference_mode():
                alone = module(item[None], torch.ones(1, len(item)))[0]
            torch.testing.assert_close(row, alone)


def test_less_than_a_quarter_of_what_is_computed_for_such_texts_is_padding():
    lengths = [len(text) for text in texts(10_000)]
    computed = sum(map(padded_length, lengths))
    waste = 1 - sum(lengths) / computed
    # One batch for all would have computed 512 for each: 84 % of it for nothing.
    assert waste < 0.25
    assert 1 - sum(lengths) / (512 * len(lengths)) > 0.8

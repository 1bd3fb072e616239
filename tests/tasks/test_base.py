"""What a task does unless it says otherwise."""

from typing import Any

import pytest
import torch
from pydantic import BaseModel

from batchserve.config import ImageConfig
from batchserve.tasks.base import Task
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask


class Plain(Task):
    def decode(self, payload: Any) -> torch.Tensor:
        return torch.tensor(payload)

    def encode(self, row: Any, parameters: BaseModel) -> Any:
        return row.tolist()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), True),
        (torch.zeros(2, 3), torch.zeros(3, 2), False),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), False),
        (torch.zeros(()), torch.zeros(1), False),
    ],
)
def test_items_of_one_shape_and_dtype_can_share_a_batch(one, other, equal):
    task = Plain()
    assert (task.bucket_key(one) == task.bucket_key(other)) is equal
    assert (hash(task.bucket_key(one)) == hash(task.bucket_key(other))) is equal


def test_they_are_stacked():
    batch = Plain().collate((torch.tensor([1, 2]), torch.tensor([3, 4])))
    assert batch.tolist() == [[1, 2], [3, 4]]


def test_scores_that_are_not_finite_are_a_failure_numbers_in_general_are_not():
    assert ImageClassification(ImageConfig()).finite_rows
    assert not TensorTask().finite_rows
    assert not Plain().finite_rows

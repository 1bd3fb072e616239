"""What the page has to ask a person for."""

from typing import Any, ClassVar

import pytest
import torch

from batchserve.config import ImageConfig
from batchserve.tasks.base import Task
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.kinds import input_of
from batchserve.tasks.tensor import TensorTask


class Custom(Task):
    def decode(self, payload: Any) -> torch.Tensor:
        return torch.zeros(1)

    def encode(self, row: Any, parameters: Any) -> Any:
        return None


class Words(Custom):
    Input: ClassVar[Any] = str


class Pairs(Custom):
    Input: ClassVar[Any] = tuple[str, int]


class Sounds(Custom):
    media_types = ("audio/wav",)


class Named(TensorTask):
    Input: ClassVar[Any] = dict[str, float]


@pytest.mark.parametrize(
    ("task", "described"),
    [
        (TensorTask((3, -1), "int64"), {"kind": "numbers", "dtype": "int64", "shape": [3, -1]}),
        (TensorTask(), {"kind": "numbers", "dtype": "float32", "shape": None}),
        (
            ImageClassification(ImageConfig()),
            {"kind": "image", "media_types": ["image/*", "application/octet-stream"]},
        ),
        (Sounds(), {"kind": "file", "media_types": ["audio/wav"]}),
        (Words(), {"kind": "text"}),
        (Pairs(), {"kind": "json"}),
        (Custom(), {"kind": "json"}),
        (Named(), {"kind": "json"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Task) else "",
)
def test_an_input_is_described_by_what_its_task_takes(task, described):
    assert input_of(task) == described

from typing import Any, Self

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.tasks import BUILT_IN, build_task
from batchserve.tasks.base import Task
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask
from tests.models import tiny


class Length(Task):
    """A text to its length."""

    def decode(self, payload: Any) -> torch.Tensor:
        return torch.tensor([len(payload)])

    def encode(self, row: Any, parameters: BaseModel) -> Any:
        return row.item()


class Remembers(Length):
    """Keeps what it was made for."""

    config: ModelConfig
    module: nn.Module

    @classmethod
    def from_config(cls, config: ModelConfig, module: nn.Module) -> Self:
        made = cls()
        made.config, made.module = config, module
        return made


class RefusesTheModel(Length):
    """A task that does not suit."""

    @classmethod
    def from_config(cls, config: ModelConfig, module: nn.Module) -> Self:
        raise LoadError("this task is for models with an even number of classes")


class DecodesOnly(Task):
    """Lacks encode."""

    def decode(self, payload: Any) -> torch.Tensor:
        return torch.tensor([len(payload)])


class NotATask:
    """Has all methods of a task, and is none."""

    decode = Length.decode
    encode = Length.encode


AN_INSTANCE = Length()


def a_function() -> Task:
    return Length()


def _build(task: str, module: nn.Module | None = None, **keys) -> Task:
    config = ModelConfig(name="one", source="a:b", task=task, **keys)
    return build_task(config, module or tiny())


def _refusal(task: str) -> str:
    with pytest.raises(LoadError) as caught:
        _build(task)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"), [("tensor", TensorTask), ("image-classification", ImageClassification)]
)
def test_built_in_tasks(name, kind):
    assert type(_build(name)) is kind


def test_the_built_in_tasks_are_all_tried_here():
    assert sorted(BUILT_IN) == ["image-classification", "tensor"]


def test_tensor_is_the_default():
    assert type(build_task(ModelConfig(name="one", source="a:b"), tiny())) is TensorTask


def test_the_config_reaches_a_built_in_task():
    task = _build("tensor", input_shape=(-1, 4), input_dtype="int64")
    example = task.example()
    assert example is not None
    assert (example.shape, example.dtype) == ((1, 4), torch.int64)


def test_the_module_reaches_a_built_in_task():
    example = _build("tensor", nn.Linear(6, 2)).example()
    assert example is not None
    assert example.shape == (6,)


def test_a_task_of_ones_own():
    task = _build("tests.tasks.test_build:Length")
    assert type(task) is Length
    row = task.decode("espresso")
    assert task.encode(row, task.Parameters()) == 8


def test_a_task_of_ones_own_needs_no_more_than_decode_and_encode():
    task = _build("tests.tasks.test_build:Length")
    batch = torch.ones(2, 1)
    assert task.preprocess(batch) is batch
    assert task.postprocess(batch) is batch
    assert task.example() is None
    assert task.media_types == ()
    assert task.inline_bytes == 0


def test_config_and_module_reach_a_task_of_ones_own():
    module = tiny()
    task = _build("tests.tasks.test_build:Remembers", module, device="cpu")
    assert isinstance(task, Remembers)
    assert task.module is module
    assert task.config.device == "cpu"


@pytest.mark.parametrize("name", ["tensr", "image_classification", "Tensor", ""])
def test_an_unknown_task_is_refused_with_all_that_are_known(name):
    assert _refusal(name) == (
        f"model one: there is no task {name!r}; it is one of tensor, image-classification, or "
        f"package.module:Class"
    )


@pytest.mark.parametrize("attribute", ["NotATask", "AN_INSTANCE", "a_function", "tiny"])
def test_what_is_no_subclass_of_task_is_refused(attribute):
    assert _refusal(f"tests.tasks.test_build:{attribute}") == (
        f"model one: tests.tasks.test_build:{attribute} is no subclass of "
        f"batchserve.tasks.base.Task"
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tests.tasks.test_build:Lenght", "has no 'Lenght'; did you mean 'Length'?"),
        ("tests.tasks.absent:Length", "there is no module 'tests.tasks.absent'"),
        (":Length", "is not of the form package.module:attribute"),
    ],
)
def test_a_task_that_cannot_be_imported_is_refused_with_the_reason(path, reason):
    assert reason in _refusal(path)


@pytest.mark.parametrize(
    "task", ["tests.tasks.absent:Length", "tests.tasks.test_build:RefusesTheModel"]
)
def test_each_refusal_says_for_which_model(task):
    assert _refusal(task).startswith("model one: ")


def test_a_task_that_lacks_a_method_is_refused_with_its_name():
    message = _refusal("tests.tasks.test_build:DecodesOnly")
    assert message.startswith("model one: ")
    assert "encode" in message

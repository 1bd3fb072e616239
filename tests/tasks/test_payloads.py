"""What other protocols send, as the payloads of tasks that know only their own."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from batchserve.errors import BadRequest, InvalidInput
from batchserve.tasks.base import Task
from batchserve.tasks.payloads import elements_of, from_bytes, from_rows, from_value, spec_of
from batchserve.tasks.tensors import TensorSpec


class Base(Task):
    def decode(self, payload: Any) -> torch.Tensor:
        return torch.zeros(1)

    def encode(self, row: Any, parameters: Any) -> Any:
        return None


class Text(Base):
    Input: ClassVar[Any] = str


class Vector(Base):
    Input: ClassVar[Any] = list[float]


class Matrix(Base):
    Input: ClassVar[Any] = list[list[int]]


class Flag(Base):
    Input: ClassVar[Any] = bool


class Words(Base):
    Input: ClassVar[Any] = list[str]


class Person(BaseModel):
    age: int


class People(Base):
    Input: ClassVar[Any] = Person


class Sound(Base):
    Input: ClassVar[Any] = str
    media_types: ClassVar[tuple[str, ...]] = ("audio/wav",)


def bytes_of(*elements: bytes, shape: tuple[int, ...] = (-1,)) -> np.ndarray[Any, Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


@pytest.mark.parametrize(
    ("task", "datatype", "shape"),
    [
        (Text, "BYTES", (1,)),
        (Vector, "FP32", (-1,)),
        (Matrix, "INT64", (-1, -1)),
        (Flag, "BOOL", ()),
        (Words, "BYTES", (1,)),
        (People, "BYTES", (1,)),
        (Sound, "BYTES", (1,)),
        (Base, "BYTES", (1,)),
    ],
)
def test_the_type_of_the_input_tells_the_tensor(task, datatype, shape):
    assert spec_of(task) == TensorSpec("input", datatype, shape)
    assert task().input_specs() == (spec_of(task),)


@pytest.mark.parametrize(
    ("task", "data", "payload"),
    [
        (Text, "Grüße".encode(), "Grüße"),
        (Text, b'"quoted"', '"quoted"'),
        (Sound, b"RIFF\xff", b"RIFF\xff"),
        (Vector, b"[1, 2.5]", [1.0, 2.5]),
        (Words, b'["a", "b"]', ["a", "b"]),
        (People, b'{"age": 3}', Person(age=3)),
        (Base, b"[1, [2]]", [1, [2]]),
    ],
)
def test_bytes_are_a_file_a_text_or_json(task, data, payload):
    assert from_bytes(task, data) == payload


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (Text, b"\xff", "not text in UTF-8"),
        (Vector, b"[1,", "not the JSON that it must be: Invalid JSON"),
        (Vector, b'["a"]', "0: Input should be a valid number"),
        (People, b"{}", "age: Field required"),
    ],
)
def test_bytes_that_are_nothing_of_the_kind(task, data, message):
    with pytest.raises(BadRequest) as caught:
        from_bytes(task, data)
    assert message in str(caught.value)


def test_values_have_the_tasks_type():
    assert from_value(Vector, [1, 2]) == [1.0, 2.0]
    with pytest.raises(BadRequest, match="of the wrong type: Input should be a valid list"):
        from_value(Vector, "text")


def test_rows_of_numbers_become_payloads_of_the_tasks_type():
    assert from_rows(Vector, np.array([[1, 2], [3, 4]])) == [[1.0, 2.0], [3.0, 4.0]]
    assert from_rows(Flag, np.array([True, False])) == [True, False]
    with pytest.raises(BadRequest, match="wrong type"):
        from_rows(Vector, np.array([1.0]))
    with pytest.raises(BadRequest, match="wrong type"):
        from_rows(Text, np.array([[1.0]]))


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 1, 1)])
def test_each_element_of_bytes_is_a_payload(shape):
    assert from_rows(Text, bytes_of(b"a", b"b", shape=shape)) == ["a", "b"]


def test_bytes_have_one_element_for_each_input():
    with pytest.raises(InvalidInput, match=r"BYTES of shape \[1, 2\] are not one element"):
        elements_of(bytes_of(b"a", b"b", shape=(1, 2)))


def test_a_task_may_have_several_inputs_of_its_own():
    class Pairs(Base):
        def input_specs(self) -> tuple[TensorSpec, ...]:
            return (TensorSpec("left", "FP32", (-1,)), TensorSpec("right", "FP32", (-1,)))

        def payloads(self, tensors: Any) -> list[Any]:
            return list(zip(tensors["left"], tensors["right"], strict=True))

    left, right = np.zeros((2, 3)), np.ones((2, 1))
    payloads = Pairs().payloads({"left": left, "right": right})
    assert [(len(one), len(other)) for one, other in payloads] == [(3, 1), (3, 1)]

"""Flat lists of numbers are read as Python's own numbers would be; anything else is left alone."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchserve.tasks.tensor import TensorTask
from batchserve.web.flat_json import flat_numbers
from batchserve.web.formats import Json
from batchserve.web.schema import schema_of

NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53))


@given(st.lists(NUMBERS))
def test_numbers_are_the_same_to_the_bit(numbers):
    read = flat_numbers(json.dumps({"input": numbers}).encode())
    assert read is not None
    assert read.dtype == np.float64
    assert read.tobytes() == np.asarray(numbers, np.float64).tobytes()


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": [[1, 2]]}',
        b'{"input": [[1], [2]]}',
        b'{"input": [1, [2], 3]}',
        b'{"input": [1, true]}',
        b'{"input": [1, null]}',
        b'{"input": [1, "2"]}',
        b'{"input": [1, {"a": 2}]}',
        b'{"input": 1}',
        b'{"input": {"a": [1]}}',
        b'{"inputs": [1]}',
        b'{"input": [1], "b": 2}',
        b'{"input": [1], "input": 2}',
        b"[1]",
        b'{"input": [1,]}',
        b'{"input": [NaN]}',
        b'{"input": [1e400]}',
        b'{"input": [1]} x',
        b'{"input": [1',
        b'\xff{"input": [1]}',
        b"",
    ],
)
def test_anything_else_is_left_to_others(body):
    assert flat_numbers(body) is None
    # What went wrong is over.
    numbers = flat_numbers(b'{"input": [1]}')
    assert numbers is not None
    assert numbers.tolist() == [1.0]


def parsed(task: TensorTask, body: bytes) -> Any:
    (payload,), is_list = Json().parse(body, schema_of(type(task)).request, task)
    assert not is_list
    return payload


def test_a_task_for_a_vector_of_fractions_is_given_an_array():
    payload = parsed(TensorTask((3,)), b'{"input": [1, 2.5, 3]}')
    assert isinstance(payload, np.ndarray)
    assert TensorTask((3,)).decode(payload).tolist() == [1.0, 2.5, 3.0]


class Lists(TensorTask):
    def decode(self, payload):
        return super().decode([number + 1 for number in payload])


@pytest.mark.parametrize(
    "task", [TensorTask((3, 1)), TensorTask((3,), "int64"), TensorTask(), Lists((3,))]
)
def test_others_are_given_lists(task):
    body = b'{"input": [1, 2, 3]}'
    assert parsed(task, body) == orjson.loads(body)["input"]

"""The codec: whatever a tensor holds comes back, and whatever is no tensor is refused."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from batchserve.errors import BadRequest
from batchserve.tasks.tensors import DATATYPES
from batchserve.web.v2.tensors import KNOWN, from_binary, from_json, to_binary, to_json

NUMERIC = sorted(set(DATATYPES) - {"BYTES"})
shapes = nps.array_shapes(max_dims=4, max_side=4)


def as_bytes(shape: Sequence[int], elements: list[bytes]) -> np.ndarray[Any, Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


@st.composite
def numbers(draw: Any) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(NUMERIC))
    return datatype, draw(nps.arrays(DATATYPES[datatype], shapes))


@st.composite
def elements(draw: Any, content: st.SearchStrategy[Any]) -> np.ndarray[Any, Any]:
    shape = draw(nps.array_shapes(max_dims=3, max_side=4))
    count = int(np.prod(shape))
    return as_bytes(shape, draw(st.lists(content, min_size=count, max_size=count)))


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    # To the bit: NaN equals itself, and 0.0 is not -0.0.
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


@given(numbers())
def test_numbers_come_back_from_binary(tensor):
    datatype, array = tensor
    data = to_binary(array)
    assert len(data) == array.nbytes
    assert same(from_binary(memoryview(data), datatype, array.shape), array)


@given(numbers(), st.booleans())
def test_numbers_come_back_from_json(tensor, flat):
    datatype, array = tensor
    if array.dtype.kind == "f":
        # JSON has no NaN, and orjson's infinity is null.
        array = np.nan_to_num(array)
    data = to_json(array) if flat else array
    sent = json.loads(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY))
    back = from_json(sent, datatype, array.shape)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


@given(elements(st.binary(max_size=20)))
def test_bytes_come_back_from_binary(array):
    data = to_binary(array)
    assert np.array_equal(from_binary(memoryview(data), "BYTES", array.shape), array)


@given(elements(st.text(max_size=20).map(str.encode)), st.booleans())
def test_texts_come_back_from_json(array, flat):
    sent = to_json(array)
    if not flat:
        texts = np.empty(array.size, dtype=object)
        texts[:] = sent
        sent = texts.reshape(array.shape).tolist()
    assert np.array_equal(from_json(sent, "BYTES", array.shape), array)


@given(elements(st.binary(max_size=20)))
def test_bytes_are_laid_out_as_tritons_client_has_them(array):
    theirs = serialize_byte_tensor(array).item()
    assert to_binary(array) == theirs
    assert deserialize_bytes_tensor(to_binary(array)).tolist() == array.ravel().tolist()


@given(nps.arrays(np.float32, shapes, elements=st.floats(width=32)))
def test_bf16_is_the_upper_half_of_a_float32(array):
    upper = (array.view(np.uint32) >> 16).astype("<u2")
    back = from_binary(memoryview(upper.tobytes()), "BF16", array.shape)
    assert back.dtype == np.float32
    assert np.array_equal(back.view(np.uint32), array.view(np.uint32) & 0xFFFF0000)


def test_binary_data_are_not_copied():
    data = np.arange(6, dtype=np.float32).tobytes()
    array = from_binary(memoryview(data), "FP32", [2, 3])
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_binary_data_may_lie_anywhere():
    data = b"{}" + np.arange(3, dtype=np.float64).tobytes()
    array = from_binary(memoryview(data)[2:], "FP64", [3])
    assert array.astype(np.float32).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "message"),
    [
        (b"\0" * 7, "FP32", [2], "FP32 of shape [2] takes 8 bytes, not 7"),
        (b"\0" * 12, "FP32", [2], "FP32 of shape [2] takes 8 bytes, not 12"),
        (b"", "FP32", [2**40, 2**40, 2**40], f"takes {4 * 2**120} bytes, not 0"),
        (b"\0\1\2", "BOOL", [3], "a byte of BOOL is neither 0 nor 1"),
        (b"\0\0", "BF16", [2], "BF16 of shape [2] takes 4 bytes, not 2"),
        (b"", "BYTES", [1], "the data end after 0 of 1 elements"),
        (b"", "BYTES", [2**62], f"the data end after 0 of {2**62} elements"),
        (b"\1\0\0", "BYTES", [1], "the length of element 0 is cut off"),
        (b"\5\0\0\0abc", "BYTES", [1], "element 0 has 3 bytes, not the 5 it states"),
        (b"\xff\xff\xff\xffabc", "BYTES", [1], "has 3 bytes, not the 4294967295 it states"),
        (b"\1\0\0\0a", "BYTES", [2], "the data end after 1 of 2 elements"),
        (b"\1\0\0\0ab", "BYTES", [1], "1 bytes follow the 1 elements"),
    ],
)
def test_binary_that_is_no_such_tensor(data, datatype, shape, message):
    with pytest.raises(BadRequest) as caught:
        from_binary(memoryview(data), datatype, shape)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "message"),
    [
        (None, "FP32", [1], "data must be a list"),
        ("abc", "BYTES", [1], "data must be a list"),
        ([], "FP32", [1], "data of shape [0] are not of shape [1]"),
        ([1, 2], "FP32", [3], "data of shape [2] are not of shape [3]"),
        ([[1, 2]], "FP32", [2], "data of shape [1, 2] are not of shape [2]"),
        ([[1, 2]], "FP32", [2, 1], "data of shape [1, 2] are not of shape [2, 1]"),
        ([1], "FP32", [2**62, 2**62], "data of shape [1] are not of shape"),
        ([[1], [1, 2]], "FP32", [2, 2], "data are ragged"),
        ([1, [2]], "INT8", [2], "data are ragged"),
        (["1"], "FP32", [1], "something in data is no number"),
        ([[1, "1"]], "INT8", [1, 2], "something in data is no whole number"),
        ([None], "FP64", [1], "something in data is no number"),
        ([{}], "FP64", [1], "something in data is no number"),
        ([1.0], "INT64", [1], "something in data is no whole number"),
        ([True, 0.5], "BOOL", [2], "something in data is no boolean"),
        ([2], "BOOL", [1], "out of the range of bool"),
        ([128], "INT8", [1], "out of the range of int8"),
        ([-1], "UINT8", [1], "out of the range of uint8"),
        ([-1, 2**64 - 1], "UINT64", [2], "out of the range of uint64"),
        ([2**64], "UINT64", [1], "out of the range of uint64"),
        ([2**63], "INT64", [1], "out of the range of int64"),
        ([65520.0], "FP16", [1], "out of the range of float16"),
        ([1e39], "FP32", [1], "out of the range of float32"),
        ([10**400], "FP64", [1], "out of the range of float64"),
        ([1], "BYTES", [1], "something in data is not a string"),
        (["a", None], "BYTES", [2], "something in data is not a string"),
        (["\ud800"], "BYTES", [1], "something in data is not a string"),
        (["a", "b"], "BYTES", [1], "data of 2 elements are not of shape [1]"),
        ([["a", "b"]], "BYTES", [2, 1], "data are not nested as shape [2, 1] says"),
        ([["a"], "b"], "BYTES", [2, 1], "data are not nested as shape [2, 1] says"),
        ([[["a"]]], "BYTES", [1, 1], "something in data is not a string"),
        ([], "BYTES", [1], "data of 0 elements are not of shape [1]"),
    ],
)
def test_json_that_is_no_such_tensor(data, datatype, shape, message):
    with pytest.raises(BadRequest) as caught:
        from_json(data, datatype, shape)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "datatype", "expected"),
    [
        ([2**64 - 1, 1], "UINT64", [2**64 - 1, 1]),
        ([-(2**63), 2**63 - 1], "INT64", [-(2**63), 2**63 - 1]),
        ([1, 0, True], "BOOL", [True, False, True]),
        ([True, 2], "INT8", [1, 2]),
        ([10**30, 1], "FP64", [1e30, 1.0]),
        ([1, 2.5], "FP16", [1.0, 2.5]),
        ([float("inf"), -1.5], "FP32", [float("inf"), -1.5]),
        ([1.5, 2], "BF16", [1.5, 2.0]),
    ],
)
def test_numbers_of_another_type_that_mean_the_same(data, datatype, expected):
    assert from_json(data, datatype, [len(data)]).tolist() == expected


def test_one_long_text_among_many_does_not_make_all_of_them_long():
    # As numpy's strings these would take 80 GB.
    data = ["a" * 200_000, *["b"] * 100_000]
    with pytest.raises(BadRequest, match="no number"):
        from_json(data, "FP32", [len(data)])
    assert from_json(data, "BYTES", [len(data)]).nbytes < 2**20


def test_deep_nesting_is_no_tensor():
    data: Any = [1.0]
    for _ in range(150):
        data = [data]
    with pytest.raises(BadRequest):
        from_json(data, "FP32", [1])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
some_shape = st.lists(st.integers(1, 2**63 - 1) | st.integers(1, 3), min_size=1, max_size=32)


@given(json_values, st.sampled_from(KNOWN), some_shape)
def test_any_json_is_a_tensor_or_refused(data, datatype, shape):
    with suppress(BadRequest):
        assert list(from_json(data, datatype, shape).shape) == shape


@given(st.binary(max_size=64), st.sampled_from(KNOWN), some_shape)
def test_any_bytes_are_a_tensor_or_refused(data, datatype, shape):
    with suppress(BadRequest):
        assert list(from_binary(memoryview(data), datatype, shape).shape) == shape

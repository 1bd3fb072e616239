"""Tensors in JSON and in binary, to numpy arrays and back. Pure.

Binary is little-endian, row-major and without padding; each element of BYTES follows its length,
four bytes.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from batchserve.errors import BadRequest
from batchserve.tasks.tensors import DATATYPES, holds_text

# numpy has no such dtype: the upper half of a float32.
BF16 = "BF16"
BYTES = "BYTES"
KNOWN = (*DATATYPES, BF16)
NUMBERS = {"f": "number", "i": "whole number", "u": "whole number", "b": "boolean"}
LENGTH = struct.Struct("<I")

Array = np.ndarray[Any, Any]


def from_binary(data: memoryview, datatype: str, shape: Sequence[int]) -> Array:
    """Return the tensor that binary data holds, without a copy where that is possible.

    Args:
        data: all of this tensor's, and nothing else.
        datatype: one of `KNOWN`.
        shape: no size in it below 1.

    Raises:
        BadRequest: the data are no tensor of this datatype and shape.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return _of_bytes(_elements(data, count), shape)
    dtype = np.dtype("<u2") if datatype == BF16 else DATATYPES[datatype].newbyteorder("<")
    if len(data) != count * dtype.itemsize:
        raise BadRequest(
            f"{datatype} of shape {[*shape]} takes {count * dtype.itemsize} bytes, not {len(data)}"
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    if datatype == BF16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    if datatype == "BOOL" and array.view(np.uint8).max() > 1:
        raise BadRequest("a byte of BOOL is neither 0 nor 1")
    return array


def from_json(data: Any, datatype: str, shape: Sequence[int]) -> Array:
    """Return the tensor that `data` holds in JSON, flat or nested as `shape` says.

    Args:
        data: parsed.
        datatype: one of `KNOWN`.
        shape: no size in it below 1.

    Raises:
        BadRequest: the data are no tensor of this datatype and shape.
    """
    if not isinstance(data, list):
        raise BadRequest("data must be a list")
    if datatype == BYTES:
        return _of_bytes(_texts(data, shape), shape)
    dtype = np.dtype(np.float32) if datatype == BF16 else DATATYPES[datatype]
    array = _numbers(data, dtype)
    if array.size != math.prod(shape) or (array.ndim > 1 and array.shape != tuple(shape)):
        raise BadRequest(f"data of shape {[*array.shape]} are not of shape {[*shape]}")
    return _converted(array, dtype).reshape(shape)


def to_binary(array: Array) -> bytes:
    """Return the bytes of a tensor; of BYTES, each with its length."""
    if array.dtype == object:
        return b"".join(LENGTH.pack(len(element)) + element for element in array.flat)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(array: Array) -> Any:
    """Return what orjson writes as the flat list of a tensor's elements; NaN will be null."""
    if array.dtype == object:
        return [element.decode() for element in array.flat]
    return np.ascontiguousarray(array).reshape(-1)


def _elements(data: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    start = 0
    while start < len(data) and len(elements) < count:
        end = start + LENGTH.size
        if end > len(data):
            raise BadRequest(f"the length of element {len(elements)} is cut off")
        (length,) = LENGTH.unpack_from(data, start)
        start = end + length
        if start > len(data):
            raise BadRequest(
                f"element {len(elements)} has {len(data) - end} bytes, not the {length} it states"
            )
        elements.append(bytes(data[end:start]))
    if len(elements) != count or start != len(data):
        raise BadRequest(
            f"the data end after {len(elements)} of {count} elements"
            if len(elements) < count
            else f"{len(data) - start} bytes follow the {count} elements"
        )
    return elements


def _of_bytes(elements: Sequence[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _texts(data: list[Any], shape: Sequence[int]) -> list[bytes]:
    # Not with numpy, which would give each string the room of the longest.
    if data and isinstance(data[0], list):
        data = _unnested(data, shape)
    if len(data) != math.prod(shape):
        raise BadRequest(f"data of {len(data)} elements are not of shape {[*shape]}")
    try:
        return [text.encode() for text in data]
    except (AttributeError, UnicodeEncodeError):
        raise BadRequest("something in data is not a string") from None


def _unnested(data: list[Any], shape: Sequence[int]) -> list[Any]:
    parts = [data]
    for size in shape:
        if not all(isinstance(part, list) and len(part) == size for part in parts):
            raise BadRequest(f"data are not nested as shape {[*shape]} says")
        parts = list(chain.from_iterable(parts))
    return parts


def _numbers(data: list[Any], dtype: np.dtype[Any]) -> Array:
    no_number = BadRequest(f"something in data is no {NUMBERS[dtype.kind]}")
    if holds_text(data):
        raise no_number
    try:
        array = np.asarray(data)
        if array.dtype.kind not in ("biuf" if dtype.kind == "f" else "biu"):
            # Whole numbers, some of them above 2^63, come as floats, or as objects.
            array = np.asarray(data, dtype=object)
    except ValueError:
        raise BadRequest("data are ragged; every row needs one length") from None
    if array.dtype == object and not all(type(number) is int for number in array.flat):
        raise no_number
    return array


def _converted(array: Array, dtype: np.dtype[Any]) -> Array:
    """Convert numbers, none of which may become another but for rounding."""
    try:
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
    except OverflowError:
        lost = True
    else:
        if dtype.kind == "f":
            lost = bool((np.isinf(converted) & (array != converted)).any())
        else:
            lost = not np.array_equal(converted, array)
    if lost:
        raise BadRequest(f"something in data is out of the range of {dtype}")
    return converted

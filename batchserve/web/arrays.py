"""Arrays of numbers as bytes: numpy's files, and what msgpack-numpy puts into MessagePack.

Nothing is unpickled, and no memory is taken on the word of a header: an array is a view of the
bytes that came with it.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from batchserve.errors import BadRequest, InvalidInput

Array = np.ndarray[Any, Any]

# Magic, version and the header's length, which has two bytes in version 1 and four later.
PREAMBLE = re.compile(
    rb"\x93NUMPY(\x01[\0-\xff](?P<short>[\0-\xff]{2})|[\x02\x03][\0-\xff](?P<long>[\0-\xff]{4}))"
)
# Enough for numbers of any shape.
MOST_HEADER_BYTES = 2000
# The header is a Python literal. Of those, only this is read, and not by Python: what can be
# nested can be nested too deeply. Nothing is tried in two ways, of which there would be many.
SIZES = r"\(\s*+(?:\d++\s*+,\s*+)*+(?:\d++\s*+)?\)"
FIELD = re.compile(rf"'(\w++)'\s*+:\s*+('[^']*+'|True|False|{SIZES})\s*+,?\s*+", re.ASCII)
HEADER = re.compile(rf"\s*+\{{\s*+(?:{FIELD.pattern}){{3}}\}}\s*+", re.ASCII)
# Of numpy's arrays.
MOST_DIMENSIONS = 64
# By what msgpack-numpy knows an array in a map. That the keys are bytes, no text can imitate.
MARK, DTYPE, SHAPE, DATA = b"nd", b"type", b"shape", b"data"
# Booleans, integers and floating-point numbers, as `numpy.dtype.str` writes them.
NUMBERS = re.compile(r"[<>=|]?[biuf]\d{1,2}")


def read_npy(data: bytes) -> Array:
    """Return the array of an .npy file (NEP 1), as a view that cannot be written to.

    Raises:
        BadRequest: it is no such file, or shorter or longer than its header says.
        InvalidInput: it holds no plain numbers.
    """
    fields, start = _header(data)
    match fields:
        case {"descr": str(dtype), "fortran_order": bool(is_fortran), "shape": tuple(shape)}:
            order: Literal["F", "C"] = "F" if is_fortran else "C"
            return _view(memoryview(data)[start:], dtype, shape, order)
    raise _no_npy()


def write_npy(array: Array) -> bytes:
    """Return an array of numbers as an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def array_in(packed: Mapping[Any, Any]) -> Array:
    """Return the array, or the numpy number, that msgpack-numpy wrote as a map with a `MARK`.

    https://github.com/lebedov/msgpack-numpy

    Raises:
        BadRequest: its bytes are missing, or more or fewer than its shape says.
        InvalidInput: it holds no plain numbers.
    """
    return _view(packed.get(DATA), packed.get(DTYPE), packed.get(SHAPE, ()), "C")


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return what a file's header says, and where it ends."""
    preamble = PREAMBLE.match(data)
    if preamble is None:
        raise _no_npy()
    length = int.from_bytes(preamble["short"] or preamble["long"], "little")
    start = preamble.end() + min(length, MOST_HEADER_BYTES)
    text = data[preamble.end() : start].decode("latin-1")
    if not HEADER.fullmatch(text):
        raise _no_npy()
    return {name: _value(value) for name, value in FIELD.findall(text)}, start


def _value(text: str) -> str | bool | tuple[int, ...]:
    if text.startswith("'"):
        return text[1:-1]
    if text.startswith("("):
        return tuple(int(size) for size in text[1:-1].split(",") if size.strip())
    return text == "True"


def _no_npy() -> BadRequest:
    return BadRequest("the body is no .npy file of plain numbers, as numpy.save writes it")


def _view(data: Any, dtype: Any, shape: Sequence[Any], order: Literal["F", "C"]) -> Array:
    if not (isinstance(dtype, str) and NUMBERS.fullmatch(dtype)):
        raise InvalidInput(
            "an array in the body is not of booleans, integers or floating-point numbers"
        )
    try:
        is_shape = len(shape) <= MOST_DIMENSIONS and min(shape, default=0) >= 0
        if is_shape and math.prod(shape) * np.dtype(dtype).itemsize == len(data):
            return np.frombuffer(data, dtype).reshape(shape, order=order)
    except (TypeError, ValueError, OverflowError):  # of what numpy cannot hold
        pass
    raise BadRequest("an array in the body has more or fewer bytes than its shape and type say")

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

READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Enough for numbers of any shape. The header is a Python literal, and parsing a long one is slow.
MOST_HEADER_BYTES = 2000
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
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, is_fortran, dtype = READ_HEADER[version](file, max_header_size=MOST_HEADER_BYTES)
    except Exception:  # noqa: BLE001 - there is no end to what can be wrong with a literal
        raise BadRequest(
            "the body is no .npy file of version 1.0 or 2.0, as numpy.save writes it"
        ) from None
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return _view(memoryview(data)[file.tell() :], dtype.str, shape, order)


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

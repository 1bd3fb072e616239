"""Arrays as bytes, and bytes that only claim to be arrays."""

import io
import warnings
from typing import Any

import numpy as np
import pytest

from batchserve.errors import BadRequest, InvalidInput, RequestError
from batchserve.web.arrays import array_in, read_npy, write_npy

DTYPES = ["bool", "u1", "i1", "<u2", ">i4", "<i8", "<f2", ">f4", "<f4", "<f8"]
SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3), (0,), (2, 0, 3), (1,) * 32]


def saved(array: Any, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def headed(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


def described(descr: str, shape: str, data: bytes = b"", *, fortran: bool = False) -> bytes:
    return headed(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}", data)


def packed(array: np.ndarray[Any, Any], **changes) -> dict[bytes, Any]:
    """Return what msgpack-numpy makes of an array."""
    return {
        b"nd": True,
        b"type": array.dtype.str,
        b"kind": b"",
        b"shape": list(array.shape),
        b"data": array.tobytes(),
        **{name.encode(): value for name, value in changes.items()},
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_any_kind_and_shape(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for read in (read_npy(saved(array)), array_in(packed(array))):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_an_array_in_columns_keeps_its_places():
    array = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    np.testing.assert_array_equal(read_npy(saved(array)), array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions_of_the_format(version):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that older ones cannot be read by older numpys
        np.lib.format.write_array(file, np.arange(6.0).reshape(2, 3), version)
    assert read_npy(file.getvalue()).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "header",
    [
        "{'shape': (3,), 'descr': '<f4', 'fortran_order': False}",
        "{'descr':'<f4','fortran_order':True,'shape':(3,)}\n",
        "  { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 3 , ) , }  \n",
    ],
)
def test_headers_as_others_write_them(header):
    data = np.arange(3, dtype="<f4").tobytes()
    assert read_npy(headed(header, data)).tolist() == [0, 1, 2]


def test_a_number_of_numpy():
    assert array_in({b"nd": False, b"type": "<f4", b"data": np.float32(1.5).tobytes()}) == 1.5


@pytest.mark.parametrize("array", [np.float32(1.5), np.arange(6).reshape(2, 3)[:, ::2]])
def test_what_is_written_is_what_numpy_reads(array):
    read = np.load(io.BytesIO(write_npy(np.asarray(array))), allow_pickle=False)
    np.testing.assert_array_equal(read, array)


def refusal(data: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_npy(data)
    return caught.value


WHOLE = saved(np.arange(10.0))


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_file_that_was_cut_off(length):
    assert isinstance(refusal(WHOLE[:length]), BadRequest)


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04",
        WHOLE + b"\0",
        headed("{}"),
        headed("[]"),
        headed("1" * 3000),
        headed("{'descr': '<f4', 'shape': (1,)}", bytes(4)),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(4), b"\x03\x00"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(4), b"\x09\x00"),
        described("'<f4'", "4", bytes(16)),
        described("'<f4'", "(1.0,)", bytes(4)),
        described("'<f4'", "(10**12,)"),
        described("__import__('os').getpid()", "(1,)", bytes(4)),
        described("'<f4'", "(" * 300 + "1", bytes(4)),
        described("'<f4'", "(" + "-" * 1900 + "1,)", bytes(4)),
        described("'<f7'", "(1,)", bytes(7)),
        described("[('a', '<f8')]", "(1,)", bytes(8)),
        described("'<f4'", "(1 2)", bytes(4)),
        described("'<f4'", "(,)", bytes(4)),
        described("'<f4'", "(1,,)", bytes(4)),
        described("'<f4'", "(" + "1" * 1900, bytes(4)),
        described("'<f4'", "(" + "1," * 900, bytes(4)),
        described("'<f4'", "(1L,)", bytes(4)),
        described("True", "(1,)", bytes(4)),
        headed("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}", bytes(4)),
        headed("{'descr': '<f4', 'fortran_order': 'False', 'shape': (1,)}", bytes(4)),
        headed("{'descr': '<f4'" + ("   " * 200).join(["", "'a': True", "'b': True", "x"])),
        headed("{'descr': '<f4'" + (" " * 600).join(["", ",'a': True", ",'b': (1,)", "x"])),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}" + " " * 2000, bytes(4)),
    ],
    ids=range(28),
)
def test_what_is_no_file_of_numbers(data):
    assert isinstance(refusal(data), BadRequest)


@pytest.mark.parametrize(
    "shape",
    [
        "(1000000000000,)",
        "(0, 1000000000000000000000000)",
        "(-1, -1)",
        "(-4,)",
        "(" + "1," * 65 + ")",
        "(" + "4294967296," * 20 + ")",
    ],
)
@pytest.mark.parametrize("data", [b"", bytes(4), bytes(16)], ids=len)
def test_a_shape_that_is_not_that_of_the_bytes(shape, data):
    assert isinstance(refusal(described("'<f4'", shape, data)), BadRequest)


@pytest.mark.parametrize(
    ("descr", "size"),
    [
        ("'|O'", 8),
        ("'<c8'", 8),
        ("'<U2'", 8),
        ("'|S8'", 8),
        ("'<M8[s]'", 8),
        ("'|V8'", 8),
        ("'|V0'", 0),
        ("'(2,)<f4'", 8),
    ],
)
def test_no_numbers(descr, size):
    assert isinstance(refusal(described(descr, "(1,)", bytes(size))), InvalidInput)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_nothing_is_unpickled():
    bomb = np.array([Bomb()], dtype=object)
    assert isinstance(refusal(saved(bomb, allow_pickle=True)), InvalidInput)
    with pytest.raises(InvalidInput):
        array_in(packed(np.zeros(1), type="|O", kind=b"O", data=bomb.dumps()))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": b""},
        {"data": bytes(25)},
        {"data": "x" * 24},
        {"data": None},
        {"data": [0] * 24},
        {"shape": [4]},
        {"shape": [-3]},
        {"shape": [-1, -3]},
        {"shape": ["3"]},
        {"shape": [3.0]},
        {"shape": "abc"},
        {"shape": None},
        {"shape": {"3": 3}},
        {"shape": [3, *[1] * 64]},
        {"shape": [2**63] * 1_000_000},
        {"type": "<f7"},
    ],
    ids=range(16),
)
def test_an_array_that_is_not_as_it_says(changes):
    with pytest.raises(BadRequest):
        array_in(packed(np.zeros(3), **changes))


@pytest.mark.parametrize(
    "kind", ["O", "|O", "V8", "U2", "M8[s]", "f8,f8", "(3,)f8", b"<f8", None, 1, [["a", "<f8"]]]
)
def test_an_array_of_no_numbers(kind):
    with pytest.raises(InvalidInput):
        array_in(packed(np.zeros(3), type=kind))

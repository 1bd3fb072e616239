"""Other forms than JSON: the same input gets the same answer, in the form that is asked for."""

import contextlib
import io
import json
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from pydantic import ValidationError

from batchserve.config import ImageConfig
from batchserve.errors import BadRequest, InvalidInput
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask
from batchserve.web.formats import JSON, MSGPACK, NPY, Json, MessagePack, _plain
from batchserve.web.schema import schema_of
from tests.web.clients import Client
from tests.web.test_arrays import described, packed, saved
from tests.web.test_body import COLOUR_MODEL, best_of, picture, text64
from tests.web.test_errors import check_error

SERVER = {"torch_threads": 1}
DOUBLE: dict[str, Any] = {"server": SERVER, "name": "double", "source": "tests.models:Double"}
PAIRS: dict[str, Any] = {**DOUBLE, "input_shape": [2]}
MSGPACK_NAMES = [MSGPACK, "application/x-msgpack", "application/vnd.msgpack"]


async def ask(
    client: Client, data: bytes, kind: str, accept: str | None = None, path: str = "/predict"
) -> Any:
    headers = {"Content-Type": kind, **({"Accept": accept} if accept else {})}
    return await client.post(path, data=io.BytesIO(data), headers=headers)


async def answer(client: Client, data: bytes, kind: str) -> Any:
    response = await ask(client, data, kind)
    assert response.status == 200, await response.text()
    return await response.json()


# MessagePack.


@pytest.mark.parametrize("kind", MSGPACK_NAMES)
@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ({"input": [1, 2.5]}, {"output": [2.0, 5.0]}),
        ({"input": 7}, {"output": 14.0}),
        ({"inputs": [[1], [2], [3, 4]]}, {"outputs": [[2.0], [4.0], [6.0, 8.0]]}),
    ],
)
async def test_messagepack_is_answered_as_json(serve, kind, body, outputs):
    client = await serve(**DOUBLE)
    expected = {**outputs, "model": "double", "version": "1"}
    assert await answer(client, msgpack.packb(body), kind) == expected
    response = await ask(client, msgpack.packb(body), kind, accept=kind)
    assert response.content_type == kind
    assert msgpack.unpackb(await response.read()) == expected


@pytest.mark.parametrize("form", [bytes, text64], ids=["bytes", "base64"])
async def test_an_image_in_messagepack(serve, form):
    client = await serve(**COLOUR_MODEL)
    for colour in "rgb":
        body = {"input": form(picture(colour))}
        assert best_of((await answer(client, msgpack.packb(body), MSGPACK))["output"]) == colour
    mixed = {"inputs": [picture("g"), text64(picture("b"))]}
    outputs = (await answer(client, msgpack.packb(mixed), MSGPACK))["outputs"]
    assert list(map(best_of, outputs)) == ["g", "b"]


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "u1"])
async def test_arrays_in_messagepack(serve, dtype):
    client = await serve(**DOUBLE)
    rows = np.arange(6).reshape(3, 2).astype(dtype)
    doubled = (2.0 * rows).tolist()
    one = {"input": packed(rows)}
    assert (await answer(client, msgpack.packb(one), MSGPACK))["output"] == doubled
    listed = {"inputs": [packed(row) for row in rows]}
    assert (await answer(client, msgpack.packb(listed), MSGPACK))["outputs"] == doubled
    # One array of all inputs.
    stacked = {"inputs": packed(rows)}
    assert (await answer(client, msgpack.packb(stacked), MSGPACK))["outputs"] == doubled
    of_numpys_numbers = {"input": [packed(number) for number in rows[2]]}
    found = await answer(client, msgpack.packb(of_numpys_numbers), MSGPACK)
    assert found["output"] == doubled[2]


def nested(depth: int) -> bytes:
    return b"\x81\xa5input" + b"\x91" * depth + b"\x01"


def declares(head: bytes, times: int = 1) -> bytes:
    """Return a list, a map, text or bytes, that says it is of 2^32 - 1, perhaps in another one."""
    return b"\x81\xa5input" + (head + b"\xff\xff\xff\xff") * times


NO_MESSAGEPACK = {
    "nothing": b"",
    "JSON": b'{"input": [1]}',
    "cut off": msgpack.packb({"input": [1.0, 2.0]})[:-1],
    "something behind it": msgpack.packb({"input": [1.0]}) + b"\x01",
    "a code that means nothing": b"\x81\xa5input\xc1",
    "a long list": declares(b"\xdd"),
    "a long list of long lists": declares(b"\xdd", 500) + bytes(100_000),
    "a long map": declares(b"\xdf"),
    "long text": declares(b"\xdb"),
    "long bytes": declares(b"\xc6"),
    "a long extension": declares(b"\xc9"),
    "an extension": msgpack.packb({"input": msgpack.ExtType(1, b"x")}),
    "a key that is a list": b"\x81\x91\x01\x01",
    "a key that is a number": b"\x81\x01\x01",
    "a key of bytes": msgpack.packb({b"input": [1]}),
    "text that is no UTF-8": b"\x81\xa5input\xa1\xff",
    "deep": nested(2000),
    "not a map": msgpack.packb([1.0]),
    "another field": msgpack.packb({"input": [1.0], "other": 1}),
    "no field": msgpack.packb({}),
    "both fields": msgpack.packb({"input": [1.0], "inputs": [[1.0]]}),
    "an array and more": msgpack.packb({"inputs": packed(np.zeros((2, 2))), "input": 1}),
    "an empty list": msgpack.packb({"inputs": []}),
    "an empty array": msgpack.packb({"inputs": packed(np.zeros((0, 2)))}),
    "an array of no rows": msgpack.packb({"inputs": packed(np.zeros(()))}),
    "an array that is not as it says": msgpack.packb({"input": packed(np.zeros(2), shape=[3])}),
}


@pytest.mark.parametrize("body", NO_MESSAGEPACK.values(), ids=NO_MESSAGEPACK.keys())
@pytest.mark.parametrize("accept", [JSON, MSGPACK])
async def test_bad_messagepack_is_refused_in_json(serve, body, accept):
    client = await serve(**DOUBLE)
    response = await ask(client, body, MSGPACK, f"{accept}, */*;q=0.1")
    await check_error(response, 400, "bad_request")
    assert (await client.post("/predict", json={"input": [1.0]})).status == 200


@pytest.mark.parametrize(
    "value",
    [
        *(b"bytes", "text", None, {"a": 1}, [[1], [2, 3]], float("nan"), 2**64 - 1, packed(
            np.array([2.5])
        )),
        packed(np.zeros(1), type="|O"),
        msgpack.Timestamp(0),
    ],
    ids=range(10),
)  # fmt: skip
async def test_what_messagepack_can_hold_and_a_tensor_cannot(serve, value):
    client = await serve(**DOUBLE, input_dtype="int32")
    response = await ask(client, msgpack.packb({"input": value}), MSGPACK)
    await check_error(response, 422, "invalid_input")


async def test_nested_as_deep_as_messagepack_goes(serve):
    client = await serve(**DOUBLE)
    response = await ask(client, nested(1000), MSGPACK)
    await check_error(response, 422, "invalid_input")


@pytest.mark.parametrize("value", [packed(np.zeros((8, 8, 3))), {b"a": 1}, 3, [1]], ids=range(4))
async def test_an_image_model_takes_no_arrays(serve, value):
    client = await serve(**COLOUR_MODEL)
    for body in ({"input": value}, {"inputs": [value]}):
        response = await ask(client, msgpack.packb(body), MSGPACK)
        await check_error(response, 400, "bad_request")


def test_a_list_is_not_made_before_it_is_there():
    # Each of the lists would be made for as many as there are bytes.
    size = 2**20
    data = b"\x81\xa5input" + (b"\xdd" + size.to_bytes(4, "big")) * 50
    data += bytes(size - len(data))
    tracemalloc.start()
    with pytest.raises(BadRequest):
        MessagePack().parse(data, schema_of(TensorTask).request, TensorTask())
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 3 * size


@pytest.mark.parametrize("value", [b"x" * 100_000, "x" * 100_000], ids=["bytes", "text"])
async def test_something_long_among_numbers_takes_no_room(serve, value):
    # numpy would give as much to each of the numbers: 200 GB.
    client = await serve(**DOUBLE)
    body = msgpack.packb({"input": [value, *[0] * 2_000_000]})
    response = await ask(client, body, MSGPACK)
    await check_error(response, 422, "invalid_input", "not a number")


@given(st.binary(max_size=300) | st.binary(max_size=50).map(lambda tail: b"\x81\xa5input" + tail))
def test_any_bytes_are_read_or_refused(data):
    for task in (TensorTask(), ImageClassification(ImageConfig())):
        with contextlib.suppress(BadRequest, InvalidInput):
            MessagePack().parse(data, schema_of(type(task)).request, task)


# Numpy's files.


@pytest.mark.parametrize(
    ("model", "array", "key"),
    [
        (DOUBLE, np.arange(3.0), "output"),
        (DOUBLE, np.arange(6.0).reshape(3, 2), "output"),
        (DOUBLE, np.float32(3), "output"),
        (DOUBLE, np.zeros((0,)), "output"),
        (PAIRS, np.arange(2), "output"),
        (PAIRS, np.arange(6).reshape(3, 2), "outputs"),
        (PAIRS, np.asfortranarray(np.arange(6).reshape(3, 2)), "outputs"),
        (PAIRS, np.arange(6).reshape(3, 2).astype(">i2"), "outputs"),
        ({**DOUBLE, "input_shape": []}, np.arange(3), "outputs"),
        ({**DOUBLE, "input_shape": []}, np.array(3), "output"),
        ({**DOUBLE, "input_shape": [-1, 2]}, np.ones((4, 3, 2)), "outputs"),
    ],
    ids=range(11),
)
async def test_an_array_is_an_input_or_a_list_of_them(serve, model, array, key):
    # Adaptive batching finds out whether batches pay, and on a busy machine they may not.
    client = await serve(**model, batching={"policy": "fixed", "max_batch_size": 4})
    found = await answer(client, saved(array), NPY)
    assert found == {key: (2.0 * array).tolist(), "model": "double", "version": "1"}
    response = await ask(client, saved(array), NPY, accept=NPY)
    assert response.content_type == NPY
    doubled = np.load(io.BytesIO(await response.read()))
    assert doubled.dtype == np.float32
    np.testing.assert_array_equal(doubled, 2 * array)
    assert response.headers["X-Batch-Size"] == str(len(array) if key == "outputs" else 1)


async def test_a_large_array_goes_in_and_out_as_it_is(serve):
    client = await serve(**DOUBLE)
    array = np.random.default_rng(0).random((3, 300, 300), dtype=np.float32)
    response = await ask(client, saved(array), NPY, accept=NPY)
    np.testing.assert_array_equal(np.load(io.BytesIO(await response.read())), 2 * array)


async def test_whatever_comes_in_may_go_out_otherwise(serve):
    client = await serve(**DOUBLE)
    of_json = await ask(client, b'{"inputs": [[1], [2]]}', JSON, accept=NPY)
    assert np.load(io.BytesIO(await of_json.read())).tolist() == [[2.0], [4.0]]
    of_npy = await ask(client, saved(np.ones(1)), NPY, accept=MSGPACK)
    assert msgpack.unpackb(await of_npy.read())["output"] == [2.0]


async def test_a_list_of_more_rows_than_can_wait(serve):
    client = await serve(**PAIRS, batching={"max_batch_size": 2, "max_queue_size": 4})
    for count in (5, 1_000_000):
        response = await ask(client, saved(np.zeros((count, 2), dtype=bool)), NPY)
        await check_error(response, 413, "too_large", "max_queue_size=4")
    nothing_each = described("'|u1'", "(1000000000000, 0)")
    response = await ask(client, nothing_each, NPY)
    await check_error(response, 413, "too_large")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (saved(np.zeros(2))[:-1], 400, "bad_request"),
        (described("'<f4'", "(1000000000000,)"), 400, "bad_request"),
        (described("'|O'", "(1,)", b"\x80\x04."), 422, "invalid_input"),
        (saved(np.zeros((0, 2))), 400, "bad_request"),
        (saved(np.zeros(3)), 422, "invalid_input"),
        (saved(np.zeros((1, 1, 2))), 422, "invalid_input"),
        (saved(np.array([1, np.nan])), 422, "invalid_input"),
        (saved(np.array(["a", "b"])), 422, "invalid_input"),
    ],
    ids=range(9),
)
async def test_bad_arrays_are_refused_in_json(serve, data, status, code):
    client = await serve(**PAIRS)
    response = await ask(client, data, NPY, accept=NPY)
    await check_error(response, status, code)
    assert (await ask(client, saved(np.zeros(2)), NPY)).status == 200


# What cannot be answered.


async def test_an_image_model_has_no_arrays(serve):
    client = await serve(**COLOUR_MODEL)
    sent = await ask(client, saved(np.zeros((8, 8, 3))), NPY)
    message = await check_error(sent, 415, "unsupported_media_type", MSGPACK)
    assert NPY not in message.partition(";")[2]
    wanted = await ask(client, picture(), "image/png", accept=NPY)
    await check_error(wanted, 406, "not_acceptable", JSON, MSGPACK)


@pytest.mark.parametrize("accept", ["text/html", "image/*", "*/*;q=0", f"{JSON};q=0, {NPY};q=0.0"])
async def test_nothing_of_what_is_accepted(serve, accept):
    client = await serve(**DOUBLE)
    response = await ask(client, b'{"input": [1]}', JSON, accept=accept)
    if JSON in accept:
        assert response.status == 406
    await check_error(response, 406, "not_acceptable", JSON, MSGPACK, NPY)


async def test_several_tensors_are_no_array(serve):
    client = await serve(**{**DOUBLE, "source": "tests.models:Splits"})
    response = await ask(client, saved(np.ones(1)), NPY, accept=NPY)
    await check_error(response, 406, "not_acceptable", "several tensors")
    assert await answer(client, saved(np.ones(1)), NPY) == {
        "output": [[1.0], [2.0]],
        "model": "double",
        "version": "1",
    }


async def test_outputs_of_several_shapes_are_no_array(serve):
    client = await serve(**DOUBLE)
    body = b'{"inputs": [[1], [2, 3]]}'
    response = await ask(client, body, JSON, accept=NPY)
    await check_error(response, 406, "not_acceptable", "several shapes")
    assert (await ask(client, body, JSON)).status == 200


async def test_two_accept_headers_are_one(serve):
    client = await serve(**DOUBLE)
    headers = CIMultiDict([("Accept", f"{JSON};q=0.5"), ("Accept", MSGPACK)])
    response = await client.post("/predict", json={"input": [1]}, headers=headers)
    assert response.content_type == MSGPACK


async def test_models_tells_what_it_takes_and_gives(serve):
    tensors, images = await serve(**DOUBLE), await serve(**COLOUR_MODEL)
    (of_tensors,) = (await (await tensors.get("/models")).json())["models"]
    (of_images,) = (await (await images.get("/models")).json())["models"]
    assert of_tensors["takes"] == [JSON, *MSGPACK_NAMES, NPY]
    assert of_tensors["gives"] == [JSON, *MSGPACK_NAMES, NPY]
    files = ["multipart/form-data", "image/*", "application/octet-stream"]
    assert of_images["takes"] == [JSON, *MSGPACK_NAMES, *files]
    assert of_images["gives"] == [JSON, *MSGPACK_NAMES]


# JSON that is as it should be is read without the schema.

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
    max_leaves=10,
)
BODIES = st.one_of(
    st.builds(lambda value: {"input": value}, VALUES),
    st.builds(lambda values: {"inputs": values}, st.lists(VALUES) | VALUES),
    st.dictionaries(st.sampled_from(["input", "inputs", "else"]), VALUES),
    VALUES,
)


@given(BODIES, st.sampled_from([None, 1]), st.booleans())
def test_json_means_the_same_with_and_without_the_schema(body, indent, as_ascii):
    data = json.dumps(body, indent=indent, ensure_ascii=as_ascii).encode()
    schema = schema_of(TensorTask).request
    assert schema.untyped
    plain = _plain(data, schema)
    try:
        expected = schema.model_validate_json(data).payloads()
    except ValidationError:
        assert plain is None
    else:
        assert plain is not None
        assert repr(plain) == repr(expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"input": [1],}',
        b'{"input": NaN}',
        b"{'input': 1}",
        b'{"input": 1} {}',
        b'{"input": "\\ud800"}',
        b'\xff{"input": 1}',
        b'{"input": ' + 5000 * b"[" + 5000 * b"]" + b"}",
    ],
)
def test_json_that_is_not_plain_is_left_to_the_schema(data):
    assert _plain(data, schema_of(TensorTask).request) is None


def test_of_two_inputs_of_one_name_the_last_one_counts():
    data, schema = b'{"input": [1], "input": [2]}', schema_of(TensorTask).request
    assert _plain(data, schema) == schema.model_validate_json(data).payloads() == ([[2]], False)


def test_json_of_a_task_that_says_what_its_inputs_are_is_held_against_that():
    schema = schema_of(ImageClassification).request
    assert not schema.untyped
    with pytest.raises(BadRequest, match="input"):
        Json().parse(b'{"input": 5}', schema, ImageClassification(ImageConfig(), None))

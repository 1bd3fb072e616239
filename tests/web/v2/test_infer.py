"""Inferring with hand-made requests: what is right is answered, what is wrong is named."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

from batchserve.batch import Priority, Terms
from batchserve.config import Config
from batchserve.web.keys import REPOSITORY
from batchserve.web.v2.request import HEADER_LENGTH, INLINE_BYTES
from tests.conftest import photo
from tests.web.clients import Client, batcher_of, gate, until
from tests.web.v2.bodies import binary, described, in_json, infer

SERVER = {"torch_threads": 1}
IMAGE: dict[str, Any] = {
    "task": "image-classification",
    "source": "tests.models:MeanColour",
    "labels": ["r", "g", "b"],
    "image": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8},
}
DOUBLE: dict[str, Any] = {"server": SERVER, "name": "double", "source": "tests.models:Double"}
OF_TWO: dict[str, Any] = {**DOUBLE, "input_shape": [2]}
PATH = "/v2/models/double/infer"
SEVERAL: dict[str, Any] = {
    "server": SERVER,
    "name": "several",
    "source": "tests.web.v2.models:Several",
    "input_shape": [2],
}
TOKENS: dict[str, Any] = {
    "server": SERVER,
    "name": "tokens",
    "source": "tests.web.v2.models:MaskedSum",
    "task": "tests.web.v2.models:Tokens",
}
X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


async def refused(client: Client, path: str = PATH, **request: Any) -> tuple[int, str]:
    response = await client.post(path, **request)
    body = await response.json()
    assert set(body) == {"error", "code"}
    return response.status, body["error"]


def asked(**changes: Any) -> dict[str, Any]:
    """Return a good request's JSON, and what to change in it."""
    return {"inputs": [in_json("input", X)], **changes}


def with_input(**changes: Any) -> dict[str, Any]:
    return {"inputs": [in_json("input", X, **changes)]}


# What is right.


async def test_json_in_json_out(serve):
    client = await serve(**OF_TWO)
    response = await client.post(PATH, json=asked(id="42"))
    assert response.status == 200
    assert await response.json() == {
        "model_name": "double",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "output", "datatype": "FP32", "shape": [3, 2], "data": [2, 4, 6, 8, 10, 12]}
        ],
    }
    assert int(response.headers["X-Batch-Size"]) == 3
    assert "forward;dur=" in response.headers["Server-Timing"]


async def test_without_an_id_there_is_none(serve):
    client = await serve(**OF_TWO)
    assert "id" not in await (await client.post(PATH, json=asked())).json()


async def test_flat_data_are_those_of_the_shape(serve):
    client = await serve(**OF_TWO)
    body = with_input(data=[1, 2, 3, 4, 5, 6])
    assert np.array_equal((await infer(client, PATH, json=body))["output"], 2 * X)


async def test_no_content_type_is_asked_for(serve):
    client = await serve(**OF_TWO)
    for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
        request = {"data": json.dumps(asked()), "headers": {"Content-Type": kind}}
        assert np.array_equal((await infer(client, PATH, **request))["output"], 2 * X)


@pytest.mark.parametrize("in_binary", [True, False])
@pytest.mark.parametrize("out_binary", [True, False])
async def test_binary_in_and_out(serve, in_binary, out_binary):
    client = await serve(**OF_TWO)
    rest = {"parameters": {"binary_data_output": out_binary}}
    request = binary({"input": X}, **rest) if in_binary else {"json": asked(**rest)}
    response = await client.post(PATH, **request)
    assert (HEADER_LENGTH in response.headers) is out_binary
    assert np.array_equal((await infer(client, PATH, **request))["output"], 2 * X)


@pytest.mark.parametrize("rows", [1, 200])
async def test_large_requests_and_answers_are_worked_on_beside_the_loop(serve, rows):
    client = await serve(**DOUBLE)
    x = np.random.default_rng(0).random((rows, 5000 // rows, 10), np.float32)
    assert x.nbytes > INLINE_BYTES
    binary_out = {"parameters": {"binary_data_output": True}}
    assert np.array_equal((await infer(client, PATH, **binary({"input": x})))["output"], 2 * x)
    body = {"inputs": [in_json("input", x)], **binary_out}
    assert np.array_equal((await infer(client, PATH, json=body))["output"], 2 * x)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint8", "int32", "uint64", "bool"]
)
async def test_numbers_of_any_type_that_the_models_holds(serve, dtype):
    client = await serve(**OF_TWO)
    x = np.array([[0, 1], [1, 1]], dtype)
    for request in (binary({"input": x}), {"json": {"inputs": [in_json("input", x)]}}):
        output = (await infer(client, PATH, **request))["output"]
        assert output.dtype == np.float32
        assert output.tolist() == [[0, 2], [2, 2]]


async def test_bf16(serve):
    client = await serve(**OF_TWO)
    upper = (X.view(np.uint32) >> 16).astype(np.uint16)
    request = binary({"input": upper})
    request["data"] = request["data"].replace(b"UINT16", b"BF16", 1)
    request["headers"][HEADER_LENGTH] = str(int(request["headers"][HEADER_LENGTH]) - 2)
    assert np.array_equal((await infer(client, PATH, **request))["output"], 2 * X)


async def test_models_of_whole_numbers(serve):
    client = await serve(**DOUBLE, input_dtype="int64", input_shape=[2])
    x = np.array([[2**53 + 1, -1]], np.int64)
    for request in (binary({"input": x}), {"json": {"inputs": [in_json("input", x)]}}):
        assert np.array_equal((await infer(client, PATH, **request))["output"], 2 * x)


async def test_all_outputs_or_those_that_are_asked_for(serve):
    client = await serve(**SEVERAL)
    path = "/v2/models/several/infer"
    x = np.array([[1, -2]], np.float32)
    every = await infer(client, path, **binary({"input": x}))
    assert {name: array.tolist() for name, array in every.items()} == {
        "double": [[2, -4]],
        "positive": [[True, False]],
        "sum": [-1],
    }
    wanted = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "positive"}]
    some = await infer(client, path, **binary({"input": x}, outputs=wanted))
    assert list(some) == ["sum", "positive"]
    assert some["sum"].tolist() == [-1]


async def test_what_an_output_says_goes_before_what_the_request_says(serve):
    client = await serve(**SEVERAL)
    wanted = [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "double"}]
    body = asked(outputs=wanted, parameters={"binary_data_output": True})
    response = await client.post("/v2/models/several/infer", json=body)
    length = int(response.headers[HEADER_LENGTH])
    summed, double = json.loads((await response.read())[:length])["outputs"]
    assert summed["data"] == [3, 7, 11]
    assert double["parameters"] == {"binary_data_size": X.nbytes}
    assert "data" not in double


async def test_outputs_of_a_tuple_are_numbered(serve):
    client = await serve(**{**SEVERAL, "source": "tests.web.v2.models:Pair"})
    outputs = await infer(client, "/v2/models/several/infer", **binary({"input": X}))
    assert list(outputs) == ["output_0", "output_1"]
    assert np.array_equal(outputs["output_1"], X * X)


async def test_several_inputs_by_their_names_in_any_order(serve):
    client = await serve(**TOKENS)
    ids, mask = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 1, 0], [1, 0, 0]])
    path = "/v2/models/tokens/infer"
    assert (await infer(client, path, **binary({"input_ids": ids, "attention_mask": mask})))[
        "output"
    ].tolist() == [3, 4]
    mixed = binary({"attention_mask": mask})
    header = json.loads(mixed["data"][: int(mixed["headers"][HEADER_LENGTH])])
    header["inputs"].append(in_json("input_ids", ids))
    text = json.dumps(header).encode()
    request = {
        "data": text + mask.tobytes(),
        "headers": {HEADER_LENGTH: str(len(text))},
    }
    assert (await infer(client, path, **request))["output"].tolist() == [3, 4]


async def test_a_tensor_alone_without_any_json(serve):
    client = await serve(**OF_TWO)
    request: dict[str, Any] = {"data": X[0].tobytes(), "headers": {HEADER_LENGTH: "0"}}
    response = await client.post(PATH, **request)
    assert HEADER_LENGTH in response.headers
    assert (await infer(client, PATH, **request))["output"].tolist() == [[2, 4]]
    status, error = await refused(client, data=b"\0" * 12, headers=request["headers"])
    assert status == 400
    assert "FP32 of shape [1, 2] takes 8 bytes, not 12" in error


async def test_an_image_alone_without_any_json(serve):
    client = await serve(server=SERVER, name="colour", **IMAGE)
    request: dict[str, Any] = {"data": photo("coffee"), "headers": {HEADER_LENGTH: "0"}}
    output = (await infer(client, "/v2/models/colour/infer", **request))["output"]
    assert output.shape == (1, 3)


async def test_images_as_files_as_pixels_or_normalised(serve):
    client = await serve(server=SERVER, name="colour", **IMAGE)
    path = "/v2/models/colour/infer"
    files = np.array([photo("coffee"), photo("chelsea")], dtype=object)
    from_files = (await infer(client, path, **binary({"input": files})))["output"]
    task = client.app[REPOSITORY].versions[0].task
    pixels = np.stack([task.decode(data).numpy() for data in files])
    from_pixels = (await infer(client, path, **binary({"input": pixels})))["output"]
    planes = (pixels.astype(np.float32) / 255).transpose(0, 3, 1, 2)
    normalised = (await infer(client, path, **binary({"input": planes})))["output"]
    assert np.allclose(from_files, from_pixels)
    assert np.allclose(from_files, normalised, atol=1e-5)
    assert not np.allclose(from_files[0], from_files[1])


async def test_the_best_classes_as_texts(serve):
    client = await serve(server=SERVER, name="colour", **IMAGE)
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0, ..., 1] = 255
    pixels[1, ..., 2] = 255
    wanted = [{"name": "output", "parameters": {"classification": 2}}]
    body = {"inputs": [in_json("input", pixels)], "outputs": wanted}
    response = await client.post("/v2/models/colour/infer", json=body)
    (output,) = (await response.json())["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    # Softmax of 0, 1 and 0.
    assert output["data"] == ["0.5761169:1:g", "0.2119416:0:r", "0.5761169:2:b", "0.2119416:0:r"]


async def test_classes_without_labels_and_of_whole_numbers(serve):
    client = await serve(**DOUBLE, input_dtype="int64", input_shape=[3])
    wanted = [{"name": "output", "parameters": {"classification": 9}}]
    body = {"inputs": [in_json("input", np.array([[1, 5, 3]]))], "outputs": wanted}
    response = await client.post(PATH, json=body)
    (output,) = (await response.json())["outputs"]
    assert output["shape"] == [1, 3]
    assert output["data"] == ["10:1", "6:2", "2:0"]


async def test_a_text_for_each_item(serve):
    client = await serve(
        server=SERVER, name="letters", source="torch.nn:Identity",
        task="tests.web.v2.models:Characters",
    )  # fmt: skip
    path = "/v2/models/letters/infer"
    texts = np.array([b"ab", "\u00fc!".encode()], dtype=object)
    for request in (
        binary({"input": texts}),
        {"json": {"inputs": [described("input", texts, data=["ab", "\u00fc!"])]}},
    ):
        assert (await infer(client, path, **request))["output"].tolist() == [[97, 98], [252, 33]]
    of_two_lengths = np.array([b"a", b"ab"], dtype=object)
    status, error = await refused(client, path, **binary({"input": of_two_lengths}))
    assert status == 422
    assert "differ in shape" in error


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_compressed_requests(serve, coding, encode):
    client = await serve(**OF_TWO)
    request = binary({"input": X})
    # Its length is that of the JSON as it was.
    request["data"] = encode(request["data"])
    request["headers"]["Content-Encoding"] = coding
    assert np.array_equal((await infer(client, PATH, **request))["output"], 2 * X)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate", None), ("br", None), ("", None)],
)
async def test_answers_are_compressed_for_who_asks_for_one_coding(serve, accepted, coding):
    client = await serve(**OF_TWO)
    request = binary({"input": X}, parameters={"binary_data_output": True})
    request["headers"]["Accept-Encoding"] = accepted
    response = await client.post(PATH, **request)
    assert response.headers.get("Content-Encoding") == coding
    assert np.array_equal((await infer(client, PATH, **request))["output"], 2 * X)


async def test_requests_share_a_batch_with_each_other_and_with_other_protocols(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 8})
    runner = gate(client)
    asking = [asyncio.create_task(client.post("/predict", json={"input": [1.0, 2.0]}))]
    await runner.wait_started()
    for path, request in [
        (PATH, binary({"input": X[:1]})),
        (PATH, {"json": asked()}),
        ("/predict", {"json": {"input": [3.0, 4.0]}}),
        ("/v1/models/double:predict", {"json": {"instances": [[5.0, 6.0]]}}),
        ("/predictions/double", {"json": [7.0, 8.0]}),
    ]:
        asking.append(asyncio.create_task(client.post(path, **request)))
    await until(lambda: batcher_of(client).queued == 7)
    runner.release()
    runner.release()
    answers = await asyncio.gather(*asking)
    assert [answer.status for answer in answers] == [200] * 6
    assert [answer.headers["X-Batch-Size"] for answer in answers] == ["1", *["7"] * 5]


# By when, and before whom.


async def terms_of(client: Client, **request: Any) -> tuple[Terms, float]:
    """Return the terms that a request is computed under, and the time before it came."""
    runner, batcher = gate(client), batcher_of(client)
    before_s = batcher.clock()
    asking = asyncio.create_task(client.post(PATH, **request))
    await runner.wait_started()
    (computing,) = batcher._computing
    terms = computing.items[0].terms
    runner.release()
    assert (await asking).status == 200
    return terms, before_s


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (0, Priority.NORMAL),
        (1, Priority.INTERACTIVE),
        (2, Priority.NORMAL),
        (3, Priority.BULK),
        (4, Priority.BULK),
        (2**64, Priority.BULK),
    ],
)
async def test_the_priority_is_that_of_the_parameters(serve, level, priority):
    client = await serve(**DOUBLE)
    terms, _ = await terms_of(client, json=asked(parameters={"priority": level}))
    assert terms.priority is priority


async def test_the_timeout_is_a_deadline_in_microseconds_from_the_arrival(serve):
    client = await serve(**DOUBLE, slo_ms=20_000)
    terms, before_s = await terms_of(client, json=asked(parameters={"timeout": 60_000_000}))
    assert terms.due_s == terms.deadline_s
    assert before_s + 60 <= terms.deadline_s <= batcher_of(client).clock() + 60


async def test_what_the_parameters_leave_open_the_headers_say(serve):
    client = await serve(**DOUBLE)
    headers = {"X-Priority": "bulk", "X-Request-Timeout-Ms": "60000"}
    parameters = {"priority": 0, "timeout": 0}
    terms, before_s = await terms_of(client, json=asked(parameters=parameters), headers=headers)
    assert terms.priority is Priority.BULK
    assert before_s + 60 <= terms.deadline_s <= batcher_of(client).clock() + 60
    terms, _ = await terms_of(client, json=asked(parameters={"priority": 1}), headers=headers)
    assert terms.priority is Priority.INTERACTIVE


@pytest.mark.parametrize("us", [1, 2_000])
async def test_a_timeout_that_passes_is_answered_so(serve, us):
    client = await serve(**DOUBLE)
    runner = gate(client)
    status, error = await refused(client, json=asked(parameters={"timeout": us}))
    runner.release()
    assert status == 504
    assert error in ("no answer within 1 ms", "no answer within 2 ms")


# What is wrong.


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs: Field required"),
        ([], "Input should be an object"),
        ({"inputs": []}, "inputs: List should have at least 1 item"),
        (asked(id=42), "id: Input should be a valid string"),
        (asked(outputs=[{"name": "sum"}]), "there is no output 'sum'; there is output"),
        (asked(outputs=[{"name": "output"}] * 2), "output 'output' is named twice"),
        (asked(outputs=[{}]), "outputs.0.name: Field required"),
        (asked(parameters=[]), "parameters: "),
        (asked(parameters={"priority": -1}), "parameters.priority: "),
        (asked(parameters={"priority": "high"}), "parameters.priority: "),
        (asked(parameters={"timeout": 0.5}), "parameters.timeout: "),
        (asked(parameters={"timeout": -1}), "parameters.timeout: "),
        (asked(parameters={"sequence_id": 5}), "parameters: sequence_id: models here keep nothing"),
        ({"inputs": [in_json("input", X), in_json("input", X)]}, "input 'input' is named twice"),
        ({"inputs": [in_json("x", X)]}, "there is no input 'x'; there is input"),
        ({"inputs": [in_json("x" * 257, X)]}, "inputs.0.name: "),
        (with_input(datatype="FP8"), "inputs.0.datatype: Input should be 'BOOL', 'UINT8'"),
        (with_input(shape=[]), "inputs.0.shape: List should have at least 1 item"),
        (with_input(shape=[1] * 33), "inputs.0.shape: List should have at most 32 items"),
        (with_input(shape=[3, -2]), "inputs.0.shape.1: Input should be greater than or equal to 1"),
        (with_input(shape=[0, 2]), "inputs.0.shape.0: Input should be greater than or equal to 1"),
        (with_input(shape=[3, 2.0]), "inputs.0.shape.1: "),
        (with_input(shape=["3", 2]), "inputs.0.shape.0: "),
        (with_input(shape=[True, 2]), "inputs.0.shape.0: "),
        (with_input(shape=[3, 2**64]), "inputs.0.shape.1: "),
        (with_input(shape=[3, 2**62]), "input 'input': data of shape [3, 2] are not of shape"),
        (with_input(shape=[2, 3]), "input 'input': data of shape [3, 2] are not of shape [2, 3]"),
        (with_input(data=None), "input 'input': data must be a list"),
        (with_input(data=[[1, 2], [3, 4], [5]]), "input 'input': data are ragged"),
        (with_input(data=["a"] * 6), "input 'input': something in data is no number"),
        (with_input(datatype="INT8", data=[1.5] * 6), "input 'input': something in data is no who"),
        (
            with_input(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 24}),
            "inputs.0.parameters: there is no shared memory with this server; send the data",
        ),
        (with_input(parameters={"binary_data_size": -1}), "inputs.0.parameters.binary_data_size: "),
        (
            with_input(parameters={"binary_data_size": 24}),
            "0 bytes follow the JSON",
        ),
    ],
)  # fmt: skip
async def test_json_that_is_no_request(serve, body, message):
    client = await serve(**OF_TWO)
    status, error = await refused(client, json=body)
    assert status == 400
    assert message in error


@pytest.mark.parametrize("body", [b"", b"{", b"text", b"\xff\xfe", b"[" * 500])
async def test_what_is_no_json(serve, body):
    client = await serve(**OF_TWO)
    status, error = await refused(client, data=body)
    assert status == 400
    assert error.startswith("the body is not JSON: ")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3), np.float32), "has shape [1, 3], not FP32 of shape [-1, 2]"),
        (np.zeros(2, np.float32), "has shape [2], not FP32 of shape [-1, 2]"),
        (np.full((1, 2), np.nan, np.float32), "something is not finite"),
        (np.array([[b"a", b"b"]], dtype=object), "something in it is not a number"),
    ],
)
async def test_tensors_that_are_no_input_of_this_model(serve, x, message):
    client = await serve(**OF_TWO)
    status, error = await refused(client, **binary({"input": x}))
    assert status == 422
    assert error.startswith("input 'input': the input ")
    assert message in error


async def test_a_file_that_is_no_image(serve):
    client = await serve(server=SERVER, name="colour", **IMAGE)
    files = np.array([photo("coffee"), b"no image"], dtype=object)
    status, error = await refused(client, "/v2/models/colour/infer", **binary({"input": files}))
    assert status == 422
    assert "inputs[1]: the input of 8 bytes is not an image" in error


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("x", "Inference-Header-Content-Length: 'x' is not a number of bytes"),
        ("-1", "is not a number of bytes"),
        ("1" * 30, "is not a number of bytes"),
        ("100000", "Inference-Header-Content-Length: 100000, but the body has"),
        ("5", "the body is not JSON"),
    ],
)
async def test_a_length_that_is_not_that_of_the_json(serve, length, message):
    client = await serve(**OF_TWO)
    request = binary({"input": X})
    request["headers"][HEADER_LENGTH] = length
    status, error = await refused(client, **request)
    assert status == 400
    assert message in error


@pytest.mark.parametrize("change", [b"\0", b"\0" * 1000, None])
async def test_data_that_are_more_or_less_than_stated(serve, change):
    client = await serve(**OF_TWO)
    request = binary({"input": X})
    request["data"] = request["data"][:-1] if change is None else request["data"] + change
    status, error = await refused(client, **request)
    assert status == 400
    assert f"{23 if change is None else 24 + len(change)} bytes follow the JSON" in error
    assert "binary_data_size is 24 in all" in error


async def test_a_size_that_is_not_that_of_the_shape(serve):
    client = await serve(**OF_TWO)
    request = binary({"input": X})
    request["data"] = request["data"].replace(b"[3,2]", b"[4,2]")
    status, error = await refused(client, **request)
    assert status == 400
    assert error == "input 'input': FP32 of shape [4, 2] takes 32 bytes, not 24"


async def test_data_twice(serve):
    client = await serve(**OF_TWO)
    request = binary({"input": X})
    request["data"] = request["data"].replace(b'"shape"', b'"data":[1],"shape"')
    request["headers"][HEADER_LENGTH] = str(int(request["headers"][HEADER_LENGTH]) + 11)
    status, error = await refused(client, **request)
    assert (status, error) == (400, "input 'input': it has both data and binary_data_size")


async def test_inputs_that_are_missing_or_do_not_go_together(serve):
    client = await serve(**TOKENS)
    path = "/v2/models/tokens/infer"
    ids = np.array([[1, 2]])
    status, error = await refused(client, path, **binary({"input_ids": ids}))
    assert (status, error) == (400, "input 'attention_mask' is missing")
    two = np.array([[1, 1], [1, 1]])
    status, error = await refused(client, path, **binary({"input_ids": ids, "attention_mask": two}))
    assert status == 400
    assert error.startswith("input 'attention_mask' has 2 rows and 'input_ids' 1")
    status, error = await refused(
        client, path, **binary({"input_ids": ids, "attention_mask": np.array([[1]])})
    )
    assert (status, error) == (
        422,
        "input 'input_ids', 'attention_mask': they differ in shape",
    )
    status, error = await refused(client, path, data=b"1", headers={HEADER_LENGTH: "0"})
    assert status == 400
    assert "this one has input_ids, attention_mask" in error


async def test_an_open_shape_needs_json(serve):
    client = await serve(**DOUBLE, input_shape=[-1, -1])
    status, error = await refused(client, data=b"1234", headers={HEADER_LENGTH: "0"})
    assert status == 400
    assert "leaves the shape of input open, [-1, -1]" in error


async def test_more_rows_than_can_wait_are_not_even_looked_at(serve):
    client = await serve(**DOUBLE, batching={"max_queue_size": 16})
    x = np.zeros(1_000_000, np.uint8)
    status, error = await refused(client, **binary({"input": x}))
    assert status == 413
    assert "1000000 inputs in one request; at most max_queue_size=16" in error


async def test_a_body_over_the_limit(serve):
    client = await serve(**{**OF_TWO, "server": {**SERVER, "max_body_mb": 0.01}})
    status, error = await refused(client, data=b" " * 20_000)
    assert status == 413
    assert "max_body_mb=0.01" in error


async def test_an_encoding_that_is_not_read(serve):
    client = await serve(**OF_TWO)
    status, _ = await refused(client, data=b"{}", headers={"Content-Encoding": "br"})
    assert status == 415


async def test_an_output_that_turns_out_not_to_exist(serve):
    # Nothing tells the shape of an input, and so nobody has seen an output before.
    client = await serve(**DOUBLE)
    status, error = await refused(client, json=asked(outputs=[{"name": "sum"}]))
    assert (status, error) == (400, "there is no output 'sum'; there is output")


async def test_an_output_of_a_type_that_the_protocol_lacks(serve):
    client = await serve(**{**DOUBLE, "source": "tests.web.v2.models:Complex"})
    status, error = await refused(client, json=asked())
    assert status == 500
    assert error == "output output: the Open Inference Protocol has no datatype for complex64"


async def test_an_item_on_which_the_model_fails(serve):
    client = await serve(**{**DOUBLE, "source": "tests.models:FailsOnNegative"})
    status, error = await refused(client, **binary({"input": -X}))
    assert status == 500
    assert "the model failed on this input" in error


async def test_a_full_queue(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1, "max_queue_size": 1})
    runner = gate(client)
    first = asyncio.create_task(client.post(PATH, **binary({"input": X[:1]})))
    await runner.wait_started()
    second = asyncio.create_task(client.post(PATH, **binary({"input": X[:1]})))
    await until(lambda: batcher_of(client).queued == 1)
    response = await client.post(PATH, **binary({"input": X[:1]}))
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert (await response.json())["code"] == "queue_full"
    runner.release()
    runner.release()
    assert [(await answer).status for answer in (first, second)] == [200, 200]


# Paths.


async def test_versions(serve):
    versions = [
        {"name": "m", "version": "2", "source": "tests.models:Double", "device": "cpu"},
        {"name": "m", "version": "1", "source": "torch.nn:Identity", "device": "cpu"},
    ]
    client = await serve(Config.model_validate({"server": SERVER, "models": versions}))
    for path, factor in [
        ("/v2/models/m/infer", 2),
        ("/v2/models/m/versions/2/infer", 2),
        ("/v2/models/m/versions/1/infer", 1),
        ("/v2/models/%6d/versions/%31/infer", 1),
    ]:
        outputs = await infer(client, path, **binary({"input": X}))
        assert np.array_equal(outputs["output"], factor * X)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v2/models/none/infer", "there is no model 'none'; served are double"),
        ("/v2/models/caf%C3%A9%20x/infer", "there is no model 'café x'; served are double"),
        ("/v2/models/double/versions/2/infer", "model 'double' has no version '2'; it has 1"),
        ("/v2/models/a%2Fb/infer", "there is no model 'a/b'"),
        ("/v2/models/double/explain", "there is no path /v2/models/double/explain"),
    ],
)
async def test_paths_that_lead_nowhere(serve, path, message):
    client = await serve(**OF_TWO)
    status, error = await refused(client, path, json=asked())
    assert status == 404
    assert message in error


async def test_inferring_is_posted(serve):
    client = await serve(**OF_TWO)
    response = await client.get(PATH)
    assert response.status == 405
    assert response.headers["Allow"] == "POST"

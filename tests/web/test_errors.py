"""Every error of the contract: its status, its body, and that the server goes on answering."""

import asyncio
import base64
import gzip
import io
import itertools
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from aiohttp import ClientResponse, FormData
from PIL import Image
from pydantic import BaseModel, model_validator

from batchserve.batching.cost import Cost
from batchserve.tasks.base import Parameters
from batchserve.tasks.tensor import TensorTask
from batchserve.testing import FakeRunner
from batchserve.web.keys import METRICS, REPOSITORY
from tests.web.clients import BOTH_WAYS, Client, batcher_of, gate, until

# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
IMAGE: dict[str, Any] = {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8}
COLOUR: dict[str, Any] = {
    "server": SERVER,
    "name": "colour",
    "source": "tests.models:MeanColour",
    "task": "image-classification",
    "image": IMAGE,
}
DOUBLE: dict[str, Any] = {"server": SERVER, "source": "tests.models:Double"}
TINY: dict[str, Any] = {"server": SERVER}
ONE_AT_A_TIME = {"max_batch_size": 1, "max_queue_size": 1}
JSON = {"Content-Type": "application/json"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=B"}
FILE = 'Content-Disposition: form-data; name="file"; filename="x.png"'
SMALL_BODIES = {**SERVER, "max_body_mb": 0.125}
TOO_MUCH = 200_000  # bytes


def picture(width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(file, "PNG")
    return file.getvalue()


PICTURE = picture()
GOOD_IMAGE: dict[str, Any] = {"data": PICTURE, "headers": {"Content-Type": "image/png"}}
GOOD_TENSOR: dict[str, Any] = {"json": {"input": [0.5] * 10}}


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    """Return a form's body, each part with its head."""
    return (
        b"".join(b"--B\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
        + end
    )


def files(*contents: bytes) -> FormData:
    data = FormData()
    for i, content in enumerate(contents):
        data.add_field("file", content, filename=f"{i}.png", content_type="image/png")
    return data


async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
    """Without a length, aiohttp sends `Transfer-Encoding: chunked`."""
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


async def check_error(response: ClientResponse, status: int, code: str, *mentioned: str) -> str:
    """Check an answer against the contract, and return its message."""
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == "application/json"
    assert response.headers["X-Request-Id"]
    body = json.loads(text)
    assert set(body) == {"error", "code"}
    assert body["code"] == code
    assert body["error"]
    for words in mentioned:
        assert words in body["error"]
    message: str = body["error"]
    return message


async def check_alive(client: Client, **good) -> None:
    response = await client.post("/predict", **good)
    assert response.status == 200, await response.text()


def double(number: float) -> dict[str, Any]:
    return {"json": {"input": [number]}}


# 400: not JSON, a field missing or of the wrong type.


@BOTH_WAYS
@pytest.mark.parametrize(
    ("body", "mentioned"),
    [
        (b"", "not JSON"),
        (b"not JSON at all", "not JSON"),
        (b'{"input": [1, 2', "not JSON"),
        (b'{"input": [1]} and more', "not JSON"),
        (b"{'input': [1]}", "not JSON"),
        (b'{"input": "\xff"}', "not JSON"),
        (b'{"input": ' + b"[" * 100_000, "not JSON"),
        (b"{}", "input"),
        (b"null", "object"),
        (b"[1, 2]", "object"),
        (b'"text"', "object"),
        (b'{"input": [1], "inputs": [[1]]}', '"inputs"'),
        (b'{"input": [1], "inputs": null}', "inputs"),
        (b'{"inputs": null}', "inputs"),
        (b'{"inputs": 3}', "inputs"),
        (b'{"inputs": {"0": [1]}}', "inputs"),
        (b'{"inputs": []}', "inputs"),
        (b'{"instances": [[1]]}', "instances"),
        (b'{"input": [1], "model": "tiny"}', "model"),
    ],
)
async def test_a_json_body_of_another_form(serve, body, mentioned):
    client = await serve(**TINY)
    response = await client.post("/predict", data=body, headers=JSON)
    await check_error(response, 400, "bad_request", mentioned)
    await check_alive(client, **GOOD_TENSOR)


@pytest.mark.parametrize(
    ("body", "mentioned"),
    [
        (b"", "not JSON"),
        (b"{}", "input"),
        (b'{"input": 5}', "input"),
        (b'{"input": null}', "input"),
        (b'{"input": ["aGk="]}', "input"),
        (b'{"inputs": "aGk="}', "inputs"),
        (b'{"inputs": ["aGk=", 5]}', "inputs.1"),
        (b'{"inputs": []}', "inputs"),
        (b'{"input": "aGk=", "inputs": ["aGk="]}', '"inputs"'),
        (b'{"image": "aGk="}', "image"),
    ],
)
async def test_a_json_body_of_another_form_for_an_image(serve, body, mentioned):
    client = await serve(**COLOUR)
    response = await client.post("/predict", data=body, headers=JSON)
    await check_error(response, 400, "bad_request", mentioned)
    await check_alive(client, **GOOD_IMAGE)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
async def test_an_empty_raw_body(serve, kind):
    client = await serve(**COLOUR)
    response = await client.post("/predict", data=b"", headers={"Content-Type": kind})
    await check_error(response, 400, "bad_request", "empty")
    await check_alive(client, **GOOD_IMAGE)


# 400: forms.


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (form((FILE, PICTURE)), "multipart/form-data"),
        (form((FILE, PICTURE)), "multipart/form-data; boundary=C"),
        (form((FILE, PICTURE)), f"multipart/form-data; boundary={'B' * 71}"),
        (b"", MULTIPART["Content-Type"]),
        (b"no form at all", MULTIPART["Content-Type"]),
        (form((FILE, PICTURE), end=b""), MULTIPART["Content-Type"]),
        (form((FILE, PICTURE))[:-40], MULTIPART["Content-Type"]),
        (b"--B\r\n" + FILE.encode(), MULTIPART["Content-Type"]),
        (form((f"{FILE}\r\nno header", PICTURE)), MULTIPART["Content-Type"]),
        (form((f"{FILE}\r\nX-Long: {'x' * 9000}", PICTURE)), MULTIPART["Content-Type"]),
        (form((FILE + "\r\nX-Many: x" * 200, PICTURE)), MULTIPART["Content-Type"]),
        (
            form((f"{FILE}\r\nContent-Transfer-Encoding: rot13", PICTURE)),
            MULTIPART["Content-Type"],
        ),
    ],
    ids=[
        "no boundary",
        "another boundary",
        "boundary too long",
        "empty",
        "text",
        "no end",
        "truncated",
        "only a head",
        "a header that is none",
        "a header too long",
        "too many headers",
        "unknown transfer encoding",
    ],
)
async def test_a_broken_form(serve, body, content_type):
    client = await serve(**COLOUR)
    response = await client.post("/predict", data=body, headers={"Content-Type": content_type})
    await check_error(response, 400, "bad_request", "multipart/form-data")
    await check_alive(client, **GOOD_IMAGE)


@pytest.mark.parametrize(
    "body",
    [
        form(),
        form(('Content-Disposition: form-data; name="image"', PICTURE)),
        form((FILE, PICTURE), ('Content-Disposition: form-data; name="top_k"', b"3")),
        form(("Content-Type: image/png", PICTURE)),
        form((f"{FILE}\r\nContent-Type: multipart/mixed; boundary=C", b"--C\r\n\r\nx\r\n--C--")),
    ],
    ids=["no part", "another name", "a second part of another name", "no name", "a nested form"],
)
async def test_a_form_whose_parts_are_not_named_file(serve, body):
    client = await serve(**COLOUR)
    response = await client.post("/predict", data=body, headers=MULTIPART)
    await check_error(response, 400, "bad_request", "'file'")
    await check_alive(client, **GOOD_IMAGE)


async def test_a_body_that_is_not_compressed_as_it_says(serve):
    client = await serve(**COLOUR)
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    response = await client.post("/predict", data=b"not gzip", headers=headers)
    await check_error(response, 400, "bad_request", "gzip")
    # What follows on this connection cannot be read; a client that is not told so loses a request.
    assert response.headers["Connection"] == "close"
    await check_alive(client, **GOOD_IMAGE)


# 400: headers and query.


@BOTH_WAYS
@pytest.mark.parametrize("milliseconds", ["0", "-1", "abc", "nan", "inf", "-inf", "", "10ms"])
async def test_a_timeout_that_is_none(serve, milliseconds):
    client = await serve(**TINY)
    response = await client.post(
        "/predict", headers={"X-Request-Timeout-Ms": milliseconds}, **GOOD_TENSOR
    )
    await check_error(response, 400, "bad_request", "X-Request-Timeout-Ms", repr(milliseconds))
    await check_alive(client, **GOOD_TENSOR)


@pytest.mark.parametrize(
    ("model", "query", "good"),
    [
        (COLOUR, "topk=3", GOOD_IMAGE),
        (COLOUR, "top_k=3&verbose=1", GOOD_IMAGE),
        (COLOUR, "top_k=0", GOOD_IMAGE),
        (COLOUR, "top_k=-1", GOOD_IMAGE),
        (COLOUR, "top_k=abc", GOOD_IMAGE),
        (COLOUR, "top_k=1.5", GOOD_IMAGE),
        (COLOUR, "top_k=", GOOD_IMAGE),
        (TINY, "top_k=3", GOOD_TENSOR),
    ],
)
async def test_a_query_that_is_not_understood(serve, model, query, good):
    client = await serve(**model)
    wrong = query.split("&")[-1].split("=")[0]
    response = await client.post(f"/predict?{query}", **good)
    await check_error(response, 400, "bad_request", f"query parameter {wrong}:", "known are")
    await check_alive(client, **good)


class Range(Parameters):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        return self


class InRange(TensorTask):
    Parameters: ClassVar[type[BaseModel]] = Range


async def test_a_query_that_contradicts_itself(serve):
    client = await serve(**{**TINY, "task": "tests.web.test_errors:InRange"})
    response = await client.post("/predict?low=5", **GOOD_TENSOR)
    said = "query parameters: low=5 is above high=1; known are: low, high"
    await check_error(response, 400, "bad_request", said)
    await check_alive(client, **GOOD_TENSOR)


# 404, 405.


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/predict/",
        "/predict/more",
        "/models/tiny/none",
        "/models/tiny/versions/1",
        "/docs/static/",
        "/docs/static/nothing.js",
        "/docs/static/../__init__.py",
        "/docs/static/%2e%2e/__init__.py",
    ],
)
async def test_no_such_path(serve, path):
    client = await serve(**TINY)
    response = await client.get(path)
    await check_error(response, 404, "not_found", "there is no path")
    await check_alive(client, **GOOD_TENSOR)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("path", "mentioned"),
    [
        ("/models/resnet/predict", ["'resnet'", "tiny"]),
        ("/models/resnet/versions/1/predict", ["'resnet'", "tiny"]),
        ("/models/TINY/predict", ["'TINY'", "tiny"]),
        ("/models/tiny/versions/2/predict", ["'tiny'", "'2'", "it has 1"]),
        ("/models/tiny/versions/%0a/predict", ["it has 1"]),
    ],
)
async def test_no_such_model_or_version(serve, path, mentioned):
    client = await serve(**TINY)
    response = await client.post(path, **GOOD_TENSOR)
    await check_error(response, 404, "not_found", *mentioned)
    await check_alive(client, **GOOD_TENSOR)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/predict", {"GET", "POST"}),
        ("PUT", "/models/tiny/predict", {"GET", "POST"}),
        ("PATCH", "/models/tiny/versions/1/predict", {"GET", "POST"}),
        ("POST", "/models", {"GET", "HEAD"}),
        ("POST", "/readyz", {"GET", "HEAD"}),
        ("DELETE", "/metrics", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
    ],
)
async def test_another_method(serve, method, path, allowed):
    client = await serve(**TINY)
    response = await client.request(method, path)
    await check_error(response, 405, "method_not_allowed", method, *allowed)
    assert set(response.headers["Allow"].split(",")) == allowed
    await check_alive(client, **GOOD_TENSOR)


# 413.


@pytest.mark.parametrize("send", [bytes, in_chunks], ids=["with a length", "in chunks"])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"input": "' + b"A" * TOO_MUCH + b'"}', JSON),
        (PICTURE + bytes(TOO_MUCH), {"Content-Type": "image/png"}),
        (bytes(TOO_MUCH), {"Content-Type": "application/octet-stream"}),
        (form((FILE, bytes(TOO_MUCH))), MULTIPART),
        (form(*[(FILE, bytes(1000))] * 200), MULTIPART),
        (form(*[(FILE, b"")] * 3000), MULTIPART),
        (form((f"{FILE}\r\nContent-Transfer-Encoding: base64", b"A" * TOO_MUCH)), MULTIPART),
    ],
    ids=[
        "JSON",
        "image",
        "octet-stream",
        "a large file in a form",
        "many files in a form",
        "many empty files in a form",
        "base64 in a form",
    ],
)
async def test_a_body_over_the_limit(serve, send, body, headers):
    client = await serve(**{**COLOUR, "server": SMALL_BODIES})
    response = await client.post("/predict", data=send(body), headers=headers)
    await check_error(response, 413, "too_large", "max_body_mb=0.125")
    await check_alive(client, **GOOD_IMAGE)


@pytest.mark.parametrize("limit", [0.01, 0.1, 0.3, 1.5])
async def test_the_limit_is_named_as_it_is_configured(serve, limit):
    client = await serve(**{**DOUBLE, "server": {**SERVER, "max_body_mb": limit}})
    response = await client.post("/predict", data=in_chunks(bytes(2_000_000)), headers=JSON)
    message = await check_error(response, 413, "too_large")
    assert message.split()[-1] == f"max_body_mb={limit}"


@pytest.mark.parametrize("send", [bytes, in_chunks], ids=["with a length", "in chunks"])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b" " * 2_000_000, JSON),
        (bytes(2_000_000), {"Content-Type": "image/png"}),
        (form((FILE, bytes(2_000_000))), MULTIPART),
    ],
    ids=["JSON", "image", "form"],
)
async def test_a_body_that_unpacks_to_more_than_the_limit(serve, send, body, headers):
    client = await serve(**{**COLOUR, "server": {**SERVER, "max_body_mb": 1}})
    packed = gzip.compress(body)
    assert len(packed) < 10_000
    response = await client.post(
        "/predict", data=send(packed), headers={**headers, "Content-Encoding": "gzip"}
    )
    await check_error(response, 413, "too_large", "max_body_mb=1")
    await check_alive(client, **GOOD_IMAGE)


async def test_a_length_over_the_limit_is_refused_before_the_body_comes(serve):
    client = await serve(**TINY)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000000\r\n\r\n"
    )
    assert b"413" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    await check_alive(client, **GOOD_TENSOR)


@pytest.mark.parametrize(
    "request_",
    [
        {"data": picture(100, 40), "headers": {"Content-Type": "image/png"}},
        {"json": {"input": text64(picture(100, 40))}},
        {"json": {"inputs": [text64(PICTURE), text64(picture(100, 40))]}},
        {"data": form((FILE, picture(100, 40))), "headers": MULTIPART},
    ],
    ids=["raw", "base64", "in a list", "form"],
)
async def test_an_image_of_too_many_pixels(serve, request_):
    client = await serve(**{**COLOUR, "image": {**IMAGE, "max_megapixels": 0.003}})
    response = await client.post("/predict", **request_)
    await check_error(response, 413, "too_large", "100×40", "max_megapixels=0.003")
    await check_alive(client, **GOOD_IMAGE)


@pytest.mark.parametrize("count", [5, 50])
async def test_more_inputs_than_can_ever_wait(serve, count):
    client = await serve(**DOUBLE, batching={"max_batch_size": 2, "max_queue_size": 4})
    response = await client.post("/predict", json={"inputs": [[1.0]] * count})
    await check_error(response, 413, "too_large", f"{count} inputs", "max_queue_size=4")
    await check_alive(client, json={"inputs": [[1.0]] * 4})


async def test_more_files_than_can_ever_wait(serve):
    client = await serve(**COLOUR, batching={"max_batch_size": 2, "max_queue_size": 4})
    response = await client.post("/predict", data=files(*[PICTURE] * 5))
    await check_error(response, 413, "too_large", "max_queue_size=4")
    await check_alive(client, **GOOD_IMAGE)


# 415.


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "image/png",
        "application/octet-stream",
        "multipart/form-data; boundary=B",
        "application/jsonlines",
    ],
)
async def test_a_content_type_that_a_tensor_model_does_not_read(serve, kind):
    client = await serve(**TINY)
    body = b'{"input": [1]}'
    response = await client.post("/predict", data=body, headers={"Content-Type": kind})
    kind = kind.partition(";")[0]
    await check_error(response, 415, "unsupported_media_type", kind, "application/json")
    await check_alive(client, **GOOD_TENSOR)


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "video/mp4",
        "multipart/mixed; boundary=B",
        "application/pdf",
    ],
)
async def test_a_content_type_that_an_image_model_does_not_read(serve, kind):
    client = await serve(**COLOUR)
    response = await client.post("/predict", data=PICTURE, headers={"Content-Type": kind})
    read = ["application/json", "multipart/form-data", "image/*", "application/octet-stream"]
    await check_error(response, 415, "unsupported_media_type", kind.partition(";")[0], *read)
    await check_alive(client, **GOOD_IMAGE)


# 422.


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("", "not an image"),
        ("no base64!", "base64"),
        ("ÄÖÜ=", "base64"),
        (text64(PICTURE)[:-1], "base64"),
        (f"data:image/png,{text64(PICTURE)}", "data:"),
        (f"data:image/png;base64{text64(PICTURE)}", "data:"),
        ("data:image/png;base64,no base64!", "base64"),
        (text64(b"no image"), "not an image"),
        (text64(picture(64, 64)[:3000]), "truncated"),
    ],
)
@pytest.mark.parametrize("listed", [False, True], ids=["alone", "in a list"])
async def test_text_that_is_no_image(serve, text, mentioned, listed):
    client = await serve(**COLOUR)
    good = text64(PICTURE)
    body = {"inputs": [good, text, good]} if listed else {"input": text}
    response = await client.post("/predict", json=body)
    message = await check_error(response, 422, "invalid_input", mentioned)
    assert message.startswith("inputs[1]: ") is listed
    await check_alive(client, **GOOD_IMAGE)


@pytest.mark.parametrize(
    ("data", "mentioned"),
    [
        (b"no image", "not an image"),
        (PICTURE[:8], "not an image"),
        (picture(64, 64)[:3000], "truncated"),
        (text64(PICTURE).encode(), "not an image"),
    ],
    ids=["text", "only a signature", "truncated", "base64"],
)
async def test_a_file_that_is_no_image(serve, data, mentioned):
    client = await serve(**COLOUR)
    raw = await client.post("/predict", data=data, headers={"Content-Type": "image/png"})
    message = await check_error(raw, 422, "invalid_input", mentioned)
    alone = await client.post("/predict", data=files(data))
    assert await check_error(alone, 422, "invalid_input", mentioned) == message
    among = await client.post("/predict", data=files(PICTURE, PICTURE, data))
    assert await check_error(among, 422, "invalid_input") == f"inputs[2]: {message}"
    await check_alive(client, **GOOD_IMAGE)


@pytest.mark.parametrize("data", [b"", b"AAAAA", b"!!!!"])
async def test_a_part_that_is_not_base64_as_it_says(serve, data):
    client = await serve(**COLOUR)
    body = form((f"{FILE}\r\nContent-Transfer-Encoding: base64", data))
    response = await client.post("/predict", data=body, headers=MULTIPART)
    await check_error(response, 422, "invalid_input")
    await check_alive(client, **GOOD_IMAGE)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("numbers", "mentioned"),
    [
        ("[1, 2, 3]", "[10]"),
        ("1", "[10]"),
        ("[]", "[10]"),
        ("[[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]", "[10]"),
        ("[[1, 2], [3]]", "ragged"),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9, 1e39]", "finite"),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9, -1e400]", "finite"),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9, NaN]", "finite"),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9, Infinity]", "finite"),
        ('[1, 2, 3, 4, 5, 6, 7, 8, 9, "10"]', "not a number"),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9, null]", "not a number"),
        ('"text"', "not a number"),
        ("null", "not a number"),
        ('{"0": 1}', "not a number"),
    ],
)
@pytest.mark.parametrize("listed", [False, True], ids=["alone", "in a list"])
async def test_numbers_that_do_not_fit(serve, numbers, mentioned, listed):
    client = await serve(**TINY)
    good = json.dumps(GOOD_TENSOR["json"]["input"])
    body = f'{{"inputs": [{good}, {numbers}]}}' if listed else f'{{"input": {numbers}}}'
    response = await client.post("/predict", data=body, headers=JSON)
    message = await check_error(response, 422, "invalid_input", mentioned)
    assert message.startswith("inputs[1]: ") is listed
    await check_alive(client, **GOOD_TENSOR)


@BOTH_WAYS
async def test_of_a_list_with_a_bad_input_nothing_is_computed(serve):
    client = await serve(**DOUBLE)
    runner = batcher_of(client).passes.runner = FakeRunner()
    response = await client.post("/predict", json={"inputs": [[1.0], [2.0], "bad", [3.0]]})
    message = await check_error(response, 422, "invalid_input")
    assert message.startswith("inputs[2]: ")
    await check_alive(client, **double(4))
    assert [[item.tolist() for item in batch] for batch in runner.batches] == [[[4.0]]]


@BOTH_WAYS
async def test_a_bad_input_leaves_its_neighbours_alone(serve):
    # Only a batch of three, or ten seconds, would end their wait together.
    batching = {"max_batch_size": 3, "max_wait_ms": 10_000, "policy": "fixed"}
    client = await serve(**DOUBLE, batching=batching)
    bodies = [[1.0], "bad", [2.0], [[3.0], [4.0, 5.0]], [6.0]]
    responses = await asyncio.gather(
        *(client.post("/predict", json={"input": body}) for body in bodies)
    )
    answers = [await response.json() for response in responses]
    assert [response.status for response in responses] == [200, 422, 200, 422, 200]
    assert [answer["output"] for answer in answers[::2]] == [[2.0], [4.0], [12.0]]
    assert {response.headers["X-Batch-Size"] for response in responses[::2]} == {"3"}


# 500.


@BOTH_WAYS
async def test_the_model_fails(serve, caplog):
    client = await serve(source="tests.models:FailsOnNegative", server=SERVER)
    with caplog.at_level(logging.ERROR):
        response = await client.post("/predict", json={"input": [-1.0]})
    text = await response.text()
    await check_error(response, 500, "model_failed", "log")
    for secret in ("Traceback", "negative numbers are beyond", "models.py", "File "):
        assert secret not in text
    assert "negative numbers are beyond this model" in caplog.text
    assert "Traceback" in caplog.text
    after = await client.post("/predict", json={"input": [1.0]})
    assert (await after.json())["output"] == [2.0]


@BOTH_WAYS
async def test_the_model_fails_on_one_of_a_list(serve):
    client = await serve(source="tests.models:FailsOnNegative", server=SERVER)
    response = await client.post("/predict", json={"inputs": [[1.0], [-1.0]]})
    await check_error(response, 500, "model_failed")
    await check_alive(client, **double(1))


@BOTH_WAYS
async def test_the_neighbours_of_a_failing_item_are_answered(serve):
    # Only a batch of four, or ten seconds, would end their wait together.
    batching = {"max_batch_size": 4, "max_wait_ms": 10_000, "policy": "fixed"}
    client = await serve(source="tests.models:FailsOnNegative", server=SERVER, batching=batching)
    responses = await asyncio.gather(
        *(client.post("/predict", **double(number)) for number in (1, 2, -3, 4))
    )
    assert [response.status for response in responses] == [200, 200, 500, 200]
    answered = [response for response in responses if response.status == 200]
    assert [(await response.json())["output"] for response in answered] == [[2.0], [4.0], [8.0]]
    assert {response.headers["X-Batch-Reason"] for response in answered} == {"retry"}


@BOTH_WAYS
async def test_an_item_that_failed_twice_is_not_computed_again(serve):
    client = await serve(source="tests.models:FailsOnNegative", server=SERVER)
    for _ in range(2):
        response = await client.post("/predict", **double(-1))
        await check_error(response, 500, "model_failed", "log")
        # It is not the model that is at fault.
        assert (await client.post("/predict", **double(1))).status == 200
    runner = gate(client)
    response = await client.post("/predict", **double(-1))
    await check_error(response, 500, "model_failed", "twice")
    assert runner.batches == []


@BOTH_WAYS
async def test_a_model_that_loses_rows_answers_nobody_wrongly(serve):
    # Two requests are a batch as soon as both are there.
    batching = {"max_batch_size": 2, "max_wait_ms": 10_000, "policy": "fixed"}
    client = await serve(source="tests.models:LosesRows", server=SERVER, batching=batching)
    responses = await asyncio.gather(
        *(client.post("/predict", **double(number)) for number in (1, 2))
    )
    # One by one it loses none.
    assert [(await response.json())["output"] for response in responses] == [[1.0], [2.0]]
    assert {response.headers["X-Batch-Size"] for response in responses} == {"1"}


@BOTH_WAYS
async def test_a_model_that_never_returns_the_right_number_of_rows(serve):
    client = await serve(source="tests.models:DoublesRows", server=SERVER)
    for _ in range(2):
        response = await client.post("/predict", json={"inputs": [[1.0], [2.0]]})
        await check_error(response, 500, "model_failed")


@BOTH_WAYS
async def test_we_fail(serve, monkeypatch, caplog):
    client = await serve(**TINY)

    def fail() -> bytes:
        raise ZeroDivisionError("a secret of ours")

    with monkeypatch.context() as patched:
        patched.setattr(client.app[METRICS], "exposition", fail)
        response = await client.get("/metrics")
    message = await check_error(response, 500, "internal_error")
    assert response.headers["X-Request-Id"] in message
    assert "secret" not in message
    assert "a secret of ours" in caplog.text
    assert response.headers["X-Request-Id"] in caplog.text
    assert (await client.get("/metrics")).status == 200
    await check_alive(client, **GOOD_TENSOR)


# 503.


def check_retry_after(response: ClientResponse) -> None:
    assert int(response.headers["Retry-After"]) >= 1


@BOTH_WAYS
async def test_a_full_queue(serve):
    client = await serve(**DOUBLE, batching=ONE_AT_A_TIME)
    runner, batcher = gate(client), batcher_of(client)
    first = asyncio.create_task(client.post("/predict", **double(1)))
    await runner.wait_started()
    second = asyncio.create_task(client.post("/predict", **double(2)))
    await until(lambda: batcher.queued)

    third = await client.post("/predict", **double(3))
    await check_error(third, 503, "queue_full", "max_queue_size=1")
    check_retry_after(third)
    # Whoever looks after the server is never turned away.
    for path in ("/livez", "/readyz", "/metrics", "/models"):
        assert (await client.get(path)).status == 200

    for _ in range(3):
        runner.release()
    assert [(await first).status, (await second).status] == [200, 200]
    await check_alive(client, **double(4))


@BOTH_WAYS
async def test_a_queue_with_too_little_room_for_a_list(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1, "max_queue_size": 3})
    runner, batcher = gate(client), batcher_of(client)
    first = asyncio.create_task(client.post("/predict", **double(1)))
    await runner.wait_started()
    second = asyncio.create_task(client.post("/predict", json={"inputs": [[2.0], [3.0]]}))
    await until(lambda: batcher.queued == 2)

    third = await client.post("/predict", json={"inputs": [[4.0], [5.0]]})
    await check_error(third, 503, "queue_full", "2 of max_queue_size=3 places are taken")
    check_retry_after(third)
    # None of the list was let in.
    assert batcher.queued == 2

    for _ in range(4):
        runner.release()
    assert [(await first).status, (await second).status] == [200, 200]
    await check_alive(client, **double(6))


@BOTH_WAYS
async def test_retry_after_grows_with_the_work_ahead(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1, "max_queue_size": 2})
    runner, batcher = gate(client), batcher_of(client)
    batcher.scheduler.cost = batcher.scheduler.in_flight.cost = Cost(1, {1: 7.0})
    waiting = [asyncio.create_task(client.post("/predict", **double(1)))]
    await runner.wait_started()
    waiting += [asyncio.create_task(client.post("/predict", **double(i))) for i in (2, 3)]
    await until(lambda: batcher.queued == 2)

    refused = await client.post("/predict", **double(4))
    await check_error(refused, 503, "queue_full")
    # Three items of seven seconds each, of which a moment has passed.
    assert refused.headers["Retry-After"] == "21"

    for _ in waiting:
        runner.release()
    assert [response.status for response in await asyncio.gather(*waiting)] == [200] * 3


@BOTH_WAYS
async def test_an_answer_that_would_come_too_late_is_refused_on_arrival(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner, batcher = gate(client), batcher_of(client)
    batcher.scheduler.cost = batcher.scheduler.in_flight.cost = Cost(1, {1: 7.0})
    running = asyncio.create_task(client.post("/predict", **double(1)))
    await runner.wait_started()

    hasty = {"X-Request-Timeout-Ms": "2000"}
    refused = await client.post("/predict", headers=hasty, **double(2))
    await check_error(refused, 503, "overloaded", "due")
    # What runs takes seven seconds more, and this would too, with some caution: 14 s and a bit.
    assert 12 <= int(refused.headers["Retry-After"]) <= 15
    assert batcher.queued == 0
    metrics = await (await client.get("/metrics")).text()
    assert 'batchserve_rejected_total{model="tiny",reason="overloaded",version="1"} 1.0' in metrics

    runner.release()
    assert (await running).status == 200
    # With nothing ahead, everybody is let in.
    runner.release()
    assert (await client.post("/predict", headers=hasty, **double(3))).status == 200


@BOTH_WAYS
async def test_draining_refuses_what_is_new_and_answers_what_was_there(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner, batcher = gate(client), batcher_of(client)
    running = asyncio.create_task(client.post("/predict", **double(1)))
    await runner.wait_started()
    waiting = asyncio.create_task(client.post("/predict", **double(2)))
    await until(lambda: batcher.queued)

    client.app[REPOSITORY].drain()
    refused = await client.post("/predict", **double(3))
    await check_error(refused, 503, "draining")
    check_retry_after(refused)

    runner.release()
    runner.release()
    answers = [await (await response).json() for response in (running, waiting)]
    assert [answer["output"] for answer in answers] == [[1.0], [2.0]]


@BOTH_WAYS
async def test_a_loop_that_died_is_not_ready(serve):
    client = await serve(**DOUBLE)
    await check_alive(client, **double(1))
    loop = batcher_of(client)._loop
    assert loop is not None
    loop.cancel()
    await asyncio.wait([loop])

    for path in ("/predict", "/models/tiny/predict", "/models/tiny/versions/1/predict"):
        refused = await client.post(path, **double(2))
        await check_error(refused, 503, "model_not_ready", "tiny", "lost")
        check_retry_after(refused)
    probed = await client.get("/readyz")
    await check_error(probed, 503, "model_not_ready", "tiny:1", "lost")


# 504.


@BOTH_WAYS
async def test_the_time_that_the_client_gave_is_over(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner = gate(client)
    running = asyncio.create_task(client.post("/predict", **double(1)))
    await runner.wait_started()

    late = await client.post("/predict", headers={"X-Request-Timeout-Ms": "20"}, **double(2))
    await check_error(late, 504, "deadline_exceeded", "20 ms")

    runner.release()
    runner.release()
    assert (await running).status == 200
    await check_alive(client, **double(3))
    assert [batch[0].tolist() for batch in runner.batches] == [[1.0], [3.0]], "2 was computed"


@BOTH_WAYS
async def test_the_time_that_is_named_is_the_clients_on_a_busy_machine(serve, monkeypatch):
    client = await serve(**DOUBLE)
    runner, batcher = gate(client), batcher_of(client)
    clock, delays_s = batcher.clock, itertools.count(step=0.002)
    # From look to look, more time passes than is needed.
    monkeypatch.setattr(batcher, "clock", lambda: clock() + next(delays_s))
    late = await client.post("/predict", headers={"X-Request-Timeout-Ms": "100"}, **double(1))
    await check_error(late, 504, "deadline_exceeded", "100 ms")
    runner.release()


@BOTH_WAYS
async def test_the_result_comes_too_late(serve):
    client = await serve(**DOUBLE)
    runner = gate(client)
    late = await client.post("/predict", headers={"X-Request-Timeout-Ms": "20"}, **double(1))
    await check_error(late, 504, "deadline_exceeded", "20 ms")
    runner.release()
    runner.release()
    await check_alive(client, **double(2))


@BOTH_WAYS
async def test_the_time_that_the_config_gives_is_over(serve):
    client = await serve(**{**DOUBLE, "server": {**SERVER, "default_timeout_ms": 20}})
    runner = gate(client)
    late = await client.post("/predict", **double(1))
    await check_error(late, 504, "deadline_exceeded", "20 ms")
    runner.release()
    runner.release()
    await check_alive(client, headers={"X-Request-Timeout-Ms": "20000"}, **double(2))


@BOTH_WAYS
async def test_the_time_counts_while_the_body_is_sent(serve):
    client = await serve(**DOUBLE)
    answered = asyncio.Event()

    async def unfinished() -> AsyncIterator[bytes]:
        yield b'{"input": '
        await answered.wait()

    late = await client.post(
        "/predict", data=unfinished(), headers={**JSON, "X-Request-Timeout-Ms": "20"}
    )
    await check_error(late, 504, "deadline_exceeded", "20 ms")
    answered.set()
    await check_alive(client, **double(1))


@BOTH_WAYS
async def test_an_item_of_a_list_that_comes_too_late_is_the_lists_error(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner = gate(client)
    request = asyncio.create_task(
        client.post(
            "/predict",
            json={"inputs": [[1.0], [2.0], [3.0]]},
            headers={"X-Request-Timeout-Ms": "300"},
        )
    )
    await runner.wait_started()
    runner.release()
    await check_error(await request, 504, "deadline_exceeded", "300 ms")
    runner.release()
    runner.release()
    await check_alive(client, **double(4))
    assert [batch[0].tolist() for batch in runner.batches] == [[1.0], [2.0], [4.0]]

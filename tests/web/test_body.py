"""Every way in: the same input gets the same answer in whatever form it is sent."""

import base64
import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import FormData
from PIL import Image

from batchserve.config import Config
from batchserve.web.body import INLINE_PARSE_BYTES, parse_body
from batchserve.web.keys import POOL
from tests.conftest import photo

COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255)}
# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
COLOUR_MODEL: dict[str, Any] = {
    "server": SERVER,
    "name": "colour",
    "source": "tests.models:MeanColour",
    "task": "image-classification",
    "labels": list(COLOURS),
    "image": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8},
}
DOUBLE_MODEL: dict[str, Any] = {
    "server": SERVER,
    "name": "double",
    "source": "tests.models:Double",
}
BOUNDARY = "1234567890"
SMALL = b'{"input": [1, 2, 3]}'
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

Way = Callable[[bytes], dict[str, Any]]


def picture(colour: str = "r", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 16), COLOURS[colour]).save(file, kind)
    return file.getvalue()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(*files: bytes) -> FormData:
    data = FormData()
    for i, file in enumerate(files):
        data.add_field("file", file, filename=f"{i}.png", content_type="image/png")
    return data


def recipe(encoded: bytes, encoding: str = "base64") -> bytes:
    """Return the body that recipes for ApacheBench's `-p` write by hand."""
    head = [
        f"--{BOUNDARY}",
        'Content-Disposition: form-data; name="file"; filename="x.jpg"',
        "Content-Type: image/jpeg",
        f"Content-Transfer-Encoding: {encoding}",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + encoded + f"\r\n--{BOUNDARY}--\r\n".encode()


async def in_slices(data: bytes) -> AsyncIterator[bytes]:
    """Without a length, aiohttp sends `Transfer-Encoding: chunked`."""
    step = max(10, len(data) // 20)
    for start in range(0, len(data), step):
        yield data[start : start + step]


def as_json(data: bytes) -> bytes:
    return json.dumps({"input": text64(data)}).encode()


WAYS: dict[str, Way] = {
    "base64": lambda data: {"json": {"input": text64(data)}},
    "base64 with a newline at its end": lambda data: {"json": {"input": text64(data) + "\n"}},
    "base64 in MIME's lines": lambda data: {"json": {"input": base64.encodebytes(data).decode()}},
    "data URL": lambda data: {"json": {"input": f"data:image/png;base64,{text64(data)}"}},
    "JSON with a charset": lambda data: {
        "data": as_json(data),
        "headers": {"Content-Type": "application/json; charset=utf-8"},
    },
    "JSON in capitals": lambda data: {
        "data": as_json(data),
        "headers": {"Content-Type": "Application/JSON"},
    },
    "JSON in chunks": lambda data: {
        "data": in_slices(as_json(data)),
        "headers": {"Content-Type": "application/json"},
    },
    "JSON in gzip": lambda data: {
        "data": gzip.compress(as_json(data)),
        "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    },
    "raw": lambda data: {"data": data, "headers": {"Content-Type": "image/png"}},
    "raw with a parameter": lambda data: {
        "data": data,
        "headers": {"Content-Type": 'image/png; name="a.png"'},
    },
    "raw of a type unknown to us": lambda data: {
        "data": data,
        "headers": {"Content-Type": "image/x-something"},
    },
    "octet-stream": lambda data: {
        "data": data,
        "headers": {"Content-Type": "application/octet-stream"},
    },
    "no content type": lambda data: {"data": data, "skip_auto_headers": ["Content-Type"]},
    "raw in chunks": lambda data: {
        "data": in_slices(data),
        "headers": {"Content-Type": "image/png"},
    },
    "raw in gzip": lambda data: {
        "data": gzip.compress(data),
        "headers": {"Content-Type": "image/png", "Content-Encoding": "gzip"},
    },
    "raw in deflate": lambda data: {
        "data": zlib.compress(data),
        "headers": {"Content-Type": "image/png", "Content-Encoding": "deflate"},
    },
    "form": lambda data: {"data": form(data)},
    "form without the file's type": lambda data: {
        "data": recipe(base64.b64encode(data)).replace(b"Content-Type: image/jpeg\r\n", b""),
        "headers": MULTIPART,
    },
    "form without the file's name and type": lambda data: {
        "data": recipe(base64.b64encode(data))
        .replace(b'; filename="x.jpg"', b"")
        .replace(b"Content-Type: image/jpeg\r\n", b""),
        "headers": MULTIPART,
    },
    "form in base64": lambda data: {
        "data": recipe(base64.b64encode(data)),
        "headers": MULTIPART,
    },
    "form in base64 and chunks": lambda data: {
        "data": in_slices(recipe(base64.b64encode(data))),
        "headers": MULTIPART,
    },
    "form in gzip": lambda data: {
        "data": gzip.compress(recipe(base64.b64encode(data))),
        "headers": {**MULTIPART, "Content-Encoding": "gzip"},
    },
}


def best_of(predictions: list[dict[str, Any]]) -> Any:
    return predictions[0]["label"]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_an_image_gets_its_answer_whichever_way_it_comes(serve, way):
    client = await serve(**COLOUR_MODEL)
    for colour in COLOURS:
        response = await client.post("/predict", **way(picture(colour)))
        answer = await response.json()
        assert response.status == 200, answer
        assert set(answer) == {"output", "model", "version"}
        assert best_of(answer["output"]) == colour


async def test_the_shipped_model_sees_an_espresso_whichever_way_it_comes(serve, shipped_config):
    described = shipped_config.model_dump()
    described["server"] |= SERVER
    # Less to warm up.
    described["models"][0]["batching"]["max_batch_size"] = 1
    client = await serve(Config.model_validate(described))
    coffee = photo("coffee", "JPEG")
    answers = {}
    for name, way in WAYS.items():
        response = await client.post("/predict", **way(coffee))
        assert response.status == 200, name
        answers[name] = await response.json()
    assert best_of(answers["raw"]["output"]) == "espresso"
    assert answers == dict.fromkeys(WAYS, answers["raw"])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_an_image_is_read_by_its_content(serve, kind):
    client = await serve(**COLOUR_MODEL)
    for image in (picture("g", kind), picture("b", kind)):
        raw = await client.post(
            "/predict", data=image, headers={"Content-Type": f"image/{kind.lower()}"}
        )
        mislabelled = await client.post(
            "/predict", data=image, headers={"Content-Type": "image/png"}
        )
        assert raw.status == mislabelled.status == 200
        assert await raw.json() == await mislabelled.json()
    assert best_of((await raw.json())["output"]) == "b"


# Images: lists and forms of several files.


async def test_a_list_of_images_is_answered_in_its_order(serve):
    client = await serve(**COLOUR_MODEL)
    order = "rgbbgrrbgg"
    images = [text64(picture(colour)) for colour in order]
    response = await client.post("/predict", json={"inputs": images})
    answer = await response.json()
    assert set(answer) == {"outputs", "model", "version"}
    assert "".join(map(best_of, answer["outputs"])) == order


async def test_a_list_of_one_is_answered_with_a_list_of_one(serve):
    client = await serve(**COLOUR_MODEL)
    response = await client.post("/predict", json={"inputs": [text64(picture("g"))]})
    answer = await response.json()
    assert set(answer) == {"outputs", "model", "version"}
    assert list(map(best_of, answer["outputs"])) == ["g"]


async def test_several_files_in_a_form_are_answered_in_their_order(serve):
    client = await serve(**COLOUR_MODEL)
    order = "bgrrgbb"
    response = await client.post("/predict", data=form(*map(picture, order)))
    answer = await response.json()
    assert set(answer) == {"outputs", "model", "version"}
    assert "".join(map(best_of, answer["outputs"])) == order


async def test_files_of_different_encodings_share_a_form(serve):
    client = await serve(**COLOUR_MODEL)
    last = f"--{BOUNDARY}--\r\n".encode()
    wrapped = recipe(base64.encodebytes(picture("g"))).removesuffix(last)
    plain = recipe(picture("b"), encoding="binary")
    response = await client.post("/predict", data=wrapped + plain, headers=MULTIPART)
    assert list(map(best_of, (await response.json())["outputs"])) == ["g", "b"]


# The form that ApacheBench sends.


def crlf(data: bytes) -> bytes:
    return base64.encodebytes(data).rstrip(b"\n").replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    "encode",
    [base64.b64encode, base64.encodebytes, crlf],
    ids=["one long line", "wrapped by newlines", "wrapped as in MIME"],
)
@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket"])
async def test_the_apache_bench_recipe_gets_what_the_raw_file_gets(serve, encode, name):
    client = await serve(**COLOUR_MODEL)
    jpeg = photo(name, "JPEG")
    raw = await client.post("/predict", data=jpeg, headers={"Content-Type": "image/jpeg"})
    benched = await client.post("/predict", data=recipe(encode(jpeg)), headers=MULTIPART)
    assert raw.status == benched.status == 200
    assert await benched.json() == await raw.json()


GREEN = recipe(base64.b64encode(picture("g")))
BROWSERS_BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"


@pytest.mark.parametrize(
    ("body", "boundary"),
    [
        (GREEN, f'"{BOUNDARY}"'),
        (GREEN.replace(BOUNDARY.encode(), BROWSERS_BOUNDARY.encode()), BROWSERS_BOUNDARY),
        (GREEN.replace(b"Transfer-Encoding: base64", b"transfer-encoding: BASE64"), BOUNDARY),
        (GREEN.replace(b'"file"', b"file").replace(b'"x.jpg"', b"x.jpg"), BOUNDARY),
        (b"To whom it may concern.\r\n" + GREEN, BOUNDARY),
        (GREEN.removesuffix(b"\r\n"), BOUNDARY),
    ],
    ids=[
        "quoted boundary",
        "browser's boundary",
        "other capitals",
        "unquoted names",
        "preamble",
        "no newline at the end",
    ],
)
async def test_forms_that_differ_in_what_does_not_matter(serve, body, boundary):
    client = await serve(**COLOUR_MODEL)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = await client.post("/predict", data=body, headers=headers)
    answer = await response.json()
    assert response.status == 200, answer
    assert best_of(answer["output"]) == "g"


# Tensors.


@pytest.mark.parametrize(
    ("numbers", "doubled"),
    [
        (3, 6.0),
        (-0.5, -1.0),
        ([], []),
        ([1, 2, 3], [2.0, 4.0, 6.0]),
        ([1.5, -2, 1e3], [3.0, -4.0, 2000.0]),
        ([True, False], [2.0, 0.0]),
        ([[1, 2], [3, 4], [5, 6]], [[2.0, 4.0], [6.0, 8.0], [10.0, 12.0]]),
        ([[[[7]]]], [[[[14.0]]]]),
    ],
)
async def test_numbers_of_any_shape(serve, numbers, doubled):
    client = await serve(**DOUBLE_MODEL)
    response = await client.post("/predict", json={"input": numbers})
    assert response.status == 200
    assert await response.json() == {"output": doubled, "model": "double", "version": "1"}


async def test_a_list_of_tensors_is_answered_in_its_order(serve):
    client = await serve(**DOUBLE_MODEL)
    response = await client.post("/predict", json={"inputs": [[i, -i] for i in range(50)]})
    assert await response.json() == {
        "outputs": [[2.0 * i, -2.0 * i] for i in range(50)],
        "model": "double",
        "version": "1",
    }


async def test_a_list_of_tensors_of_several_shapes_is_answered_in_its_order(serve):
    client = await serve(**DOUBLE_MODEL)
    inputs = [[1], [2, 3], 4, [5], [[6]], [7, 8], [9]]
    response = await client.post("/predict", json={"inputs": inputs})
    assert response.status == 200
    assert (await response.json())["outputs"] == [[2], [4, 6], 8, [10], [[12]], [14, 16], [18]]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (SMALL, {"Content-Type": "application/json; charset=UTF-8"}),
        (gzip.compress(SMALL), {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
        (zlib.compress(SMALL), {"Content-Type": "application/json", "Content-Encoding": "deflate"}),
    ],
    ids=["charset", "gzip", "deflate"],
)
@pytest.mark.parametrize("send", [bytes, in_slices], ids=["with a length", "in chunks"])
async def test_numbers_in_other_wrappings(serve, body, headers, send):
    client = await serve(**DOUBLE_MODEL)
    response = await client.post("/predict", data=send(body), headers=headers)
    assert (await response.json())["output"] == [2.0, 4.0, 6.0]


# The size decides on a thread or none, and on nothing else.


@pytest.fixture
def handed_over(monkeypatch) -> Callable[[Any], list[Any]]:
    """Return a function that records what a client's server gives its threads."""

    def watch(client) -> list[Any]:
        functions: list[Any] = []
        pool = client.app[POOL]
        run = pool.decode

        async def recorded(function, *args):
            functions.append(function)
            return await run(function, *args)

        monkeypatch.setattr(pool, "decode", recorded)
        return functions

    return watch


@pytest.mark.parametrize(
    ("model", "small"),
    [
        (DOUBLE_MODEL, b'{"input": [1, 2.5, -3]}'),
        (DOUBLE_MODEL, b'{"inputs": [[1], [2, 3], [4]]}'),
        (COLOUR_MODEL, as_json(picture("g"))),
    ],
    ids=["one tensor", "tensors", "image"],
)
async def test_a_large_body_is_parsed_on_a_thread_and_gets_the_same_answer(
    serve, handed_over, model, small
):
    client = await serve(**model)
    functions = handed_over(client)
    headers = {"Content-Type": "application/json"}
    first = await (await client.post("/predict", data=small, headers=headers)).json()
    assert parse_body not in functions
    large = small + b" " * INLINE_PARSE_BYTES
    second = await client.post("/predict", data=large, headers=headers)
    assert parse_body in functions
    assert second.status == 200
    assert await second.json() == first


async def test_many_numbers_come_back_as_many(serve, handed_over):
    client = await serve(**DOUBLE_MODEL)
    functions = handed_over(client)
    numbers = list(range(50_000))
    response = await client.post("/predict", json={"input": numbers})
    assert parse_body in functions
    assert (await response.json())["output"] == [2 * number for number in numbers]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"input": [1, 2}', 400), (b'{"input": [[1, 2], [3]]}', 422), (b'{"other": 1}', 400)],
)
async def test_a_large_body_gets_the_same_error(serve, handed_over, body, status):
    client = await serve(**DOUBLE_MODEL)
    functions = handed_over(client)
    headers = {"Content-Type": "application/json"}
    small = await client.post("/predict", data=body, headers=headers)
    assert parse_body not in functions
    large = await client.post("/predict", data=body + b" " * INLINE_PARSE_BYTES, headers=headers)
    assert parse_body in functions
    assert small.status == large.status == status
    assert await large.json() == await small.json()


async def test_an_encoding_that_is_not_undone_is_refused(serve):
    client = await serve(source="tests.models:Double")
    headers = {"Content-Type": "application/json", "Content-Encoding": "compress"}
    response = await client.post("/predict", data=b"anything", headers=headers)
    assert response.status == 415
    assert "Content-Encoding compress" in (await response.json())["error"]

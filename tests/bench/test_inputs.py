"""What is sent, on servers that tell what they take and on those that do not."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from batchserve.bench.inputs import Inputs, found_out, stated
from batchserve.bench.request import Request, ask
from batchserve.bench.target import Target, TargetError
from batchserve.config import Config
from batchserve.errors import ConfigError
from batchserve.samples import drawn_jpeg

TEXT_TASK = """
import torch
from typing import Any, ClassVar
from batchserve.tasks.base import Task

class Letters(Task):
    Input: ClassVar[Any] = str

    @classmethod
    def from_config(cls, config, module):
        return cls()

    def decode(self, payload):
        return torch.tensor([float(len(payload))])

    def encode(self, row, parameters):
        return row.tolist()

class Pairs(Letters):
    Input: ClassVar[Any] = dict[str, str]
"""


async def find(client: Any, path: str = "/") -> Inputs:
    return await asyncio.to_thread(found_out, Target.parse(str(client.make_url(path))), {})


async def check(inputs: Inputs) -> None:
    """Hold that the server takes each of them."""
    for request in inputs.requests:
        reply = await asyncio.to_thread(ask, inputs.target, request, 30)
        assert reply.ok, reply.body


async def test_numbers_for_a_model_of_numbers(serve):
    inputs = await find(await serve())
    assert inputs.target.path == "/models/tiny/predict"
    assert inputs.description == "noise, float32[10] (application/json) for tiny"
    assert len(json.loads(inputs.requests[0].body)["input"]) == 10
    await check(inputs)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "described"),
    [
        ([64, 128], "float32", "application/x-npy", "noise, float32[64, 128]"),
        ([3], "int64", "application/json", "zeros, int64[3]"),
        ([-1, 4], "float32", "application/json", "noise, float32[1, 4]"),
    ],
)
async def test_numbers_of_every_shape(serve, shape, dtype, kind, described):
    client = await serve(source="tests.models:Double", input_shape=shape, input_dtype=dtype)
    inputs = await find(client)
    assert inputs.description == f"{described} ({kind}) for tiny"
    await check(inputs)


async def test_a_model_of_any_shape_needs_to_be_told(serve):
    client = await serve(source="tests.models:Double")
    with pytest.raises(ConfigError, match="tiny does not tell what its inputs look like"):
        await find(client)


async def test_photos_for_a_model_of_images(serve):
    client = await serve(
        source="tests.models:MeanColour",
        task="image-classification",
        labels=["red", "green", "blue"],
    )
    inputs = await find(client, "/predict")
    assert inputs.target.path == "/predict"
    assert inputs.description == "the photos coffee, chelsea, rocket (image/jpeg) for tiny"
    assert len(inputs.requests) == 3
    await check(inputs)


async def test_text_and_what_nobody_can_guess(serve, tmp_path: Path, monkeypatch):
    (tmp_path / "bench_letters.py").write_text(TEXT_TASK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    models = [
        {"name": name, "source": "tests.models:Double", "task": f"bench_letters:{task}"}
        for name, task in (("letters", "Letters"), ("pairs", "Pairs"))
    ]
    client = await serve(Config.model_validate({"models": models}))
    inputs = await find(client, "/models/letters/versions/1/predict")
    assert inputs.description.endswith("(application/json) for letters")
    await check(inputs)
    with pytest.raises(ConfigError, match="pairs does not tell"):
        await find(client, "/models/pairs/predict")
    with pytest.raises(TargetError, match="has no model that is ready; it has letters: ready"):
        await find(client, "/models/other/predict")


async def test_a_key_is_asked_for(serve):
    client = await serve(server={"api_keys": ["x" * 16]})
    with pytest.raises(TargetError, match="wants a key"):
        await find(client)
    target = Target.parse(str(client.make_url("/")))
    inputs = await asyncio.to_thread(found_out, target, {"x-api-key": "x" * 16})
    await check(inputs)


async def test_the_open_inference_protocol_tells_too(serve):
    inputs = await find(await serve(), "/v2/models/tiny/infer")
    assert inputs.description == "input: FP32[1, 10] (application/json)"
    await check(inputs)


async def test_another_server_is_asked_for_its_page(aiohttp_server):
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", page)
    server = await aiohttp_server(app)
    inputs = await find(server)
    assert (inputs.requests[0].method, inputs.description) == ("GET", "no body")
    await check(inputs)


def test_what_is_stated_is_sent(tmp_path: Path):
    photo, data = tmp_path / "x.jpg", tmp_path / "x.npy"
    photo.write_bytes(b"one")
    data.write_bytes(b"two")
    target = Target.parse("http://h/predict")
    inputs = stated(target, [photo, data], ['{"input": 1}'], None, None, {"x-key": "k"})
    assert inputs is not None
    assert [(one.method, one.body, one.headers) for one in inputs.requests] == [
        ("POST", b"one", {"content-type": "image/jpeg", "x-key": "k"}),
        ("POST", b"two", {"content-type": "application/x-npy", "x-key": "k"}),
        ("POST", b'{"input": 1}', {"content-type": "application/json", "x-key": "k"}),
    ]
    inputs = stated(target, [photo], [], "text/plain", "PUT", {})
    assert inputs is not None
    assert inputs.description == "x.jpg (text/plain)"
    assert inputs.requests[0].method == "PUT"
    assert stated(target, [], [], None, None, {}) is None
    inputs = stated(target, [], [], None, "DELETE", {})
    assert inputs is not None
    assert (inputs.requests[0].method, inputs.requests[0].body) == ("DELETE", b"")


@pytest.mark.parametrize(
    ("files", "texts", "message"),
    [
        ([Path("/nowhere/x.jpg")], [], "--file /nowhere/x.jpg: No such file"),
        ([], ["{"], "--json {: Expecting"),
    ],
)
def test_what_cannot_be_sent(files: list[Path], texts: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        stated(Target.parse("http://h"), files, texts, None, None, {})


def test_the_bytes_of_a_request():
    target = Target.parse("http://[::1]:8000/predict?top_k=2")
    request = Request("POST", b"{}", {"Content-Type": "application/json", "user-agent": "me"})
    assert request.wire(target) == (
        b"POST /predict?top_k=2 HTTP/1.1\r\nhost: [::1]:8000\r\nuser-agent: me\r\n"
        b"content-length: 2\r\ncontent-type: application/json\r\n\r\n{}"
    )
    assert b"content-length" not in Request("GET", b"").wire(target)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h", "http://h/"),
        ("https://h:444/x?y=1", "https://h:444/x?y=1"),
        ("h:80/x", "http://h/x"),
        ("unix:/run/b.sock", "http://localhost/ on unix:/run/b.sock"),
    ],
)
def test_addresses(url: str, shown: str):
    assert str(Target.parse(url)) == shown


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:port", "http://h:0"])
def test_what_is_no_address(url: str):
    with pytest.raises(ConfigError, match="is no address"):
        Target.parse(url)


def test_a_drawn_photo_is_one():
    with Image.open(io.BytesIO(drawn_jpeg())) as image:
        assert (image.format, image.size) == ("JPEG", (640, 480))
        assert np.asarray(image).std() > 20


def test_certificates_that_are_none(tmp_path: Path):
    path = tmp_path / "ca.pem"
    path.write_text("nothing", encoding="utf-8")
    with pytest.raises(ConfigError, match="name a PEM file"):
        Target.parse("https://h", cacert=path).tls()

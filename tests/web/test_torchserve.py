"""TorchServe's inference API, as its documents have curl and requests use it."""

import base64
import json
from typing import Any, ClassVar

import aiohttp
import pytest
from torch import Tensor

from batchserve.config import Config
from batchserve.tasks.image_classification import ImageClassification
from batchserve.web.body import INLINE_PARSE_BYTES
from tests.conftest import photo
from tests.web.clients import Client
from tests.web.v2.models import Characters

MODELS = Config.model_validate(
    {
        "server": {"torch_threads": 1},
        "models": [
            {
                "name": "colour",
                "version": "2.0",
                "source": "tests.models:MeanColour",
                "task": "image-classification",
                "labels": ["warm", "warm", "cold"],
                "image": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8},
                "device": "cpu",
            },
            {"name": "double", "source": "tests.models:Double", "device": "cpu"},
            {
                "name": "letters",
                "source": "torch.nn:Identity",
                "task": "tests.web.v2.models:Characters",
                "device": "cpu",
            },
            {
                "name": "shout",
                "source": "torch.nn:Identity",
                "task": "tests.web.test_torchserve:Shout",
                "device": "cpu",
            },
        ],
    }
)
COFFEE = photo("coffee", "JPEG")
JSON = {"Content-Type": "application/json"}
COLOUR = "/predictions/colour"


class Shout(Characters):
    """A text to itself in capitals."""

    Output: ClassVar[Any] = str

    def encode(self, row: Tensor, parameters: Any) -> Any:
        return "".join(chr(int(code)) for code in row).upper()


class Best(ImageClassification):
    """The best class and nothing else."""

    Output: ClassVar[Any] = dict[str, str]

    def encode(self, row: Tensor, parameters: Any) -> Any:
        return {"class_name": super().encode(row, parameters)[0]["label"]}


def form(*parts: tuple[str, bytes, str | None]) -> aiohttp.FormData:
    made = aiohttp.FormData()
    for name, data, kind in parts:
        made.add_field(name, data, content_type=kind, filename="a")
    return made


async def output(client: Client, path: str, method: str = "POST", **request: Any) -> Any:
    response = await client.request(method, path, **request)
    assert response.status == 200, await response.text()
    assert response.content_type == "application/json"
    return await response.json()


async def test_ping(serve):
    client = await serve(MODELS)
    assert await (await client.get("/ping")).json() == {"status": "Healthy"}


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", [COLOUR, f"{COLOUR}/2.0"])
async def test_a_file_as_curl_uploads_it(serve, method, path):
    client = await serve(MODELS)
    # curl -T states no content type.
    skipped = {"skip_auto_headers": ["Content-Type"]}
    scores = await output(client, path, method, data=COFFEE, **skipped)
    assert list(scores) == ["warm", "cold"]
    assert 1 > scores["warm"] > scores["cold"] > 0


async def test_scores_by_label_best_first_and_as_many_as_asked_for(serve):
    client = await serve(MODELS)
    assert list(await output(client, f"{COLOUR}?top_k=1", data=COFFEE)) == ["warm"]
    predictions = await (await client.post("/models/colour/predict", data=COFFEE)).json()
    best = {entry["label"]: entry["score"] for entry in reversed(predictions["output"])}
    assert await output(client, COLOUR, data=COFFEE) == best


async def test_a_task_of_ones_own_for_images_keeps_its_form(serve):
    described = MODELS.models[0].model_dump(include={"name", "source", "labels", "device"})
    task = "tests.web.test_torchserve:Best"
    client = await serve(server={"torch_threads": 1}, **described, task=task)
    assert await output(client, COLOUR, data=COFFEE) == {"class_name": "warm"}


@pytest.mark.parametrize("name", ["data", "body"])
async def test_a_form(serve, name):
    client = await serve(MODELS)
    scores = await output(client, COLOUR, data=form((name, COFFEE, "image/jpeg")))
    assert scores == await output(client, COLOUR, data=COFFEE)
    several = form((name, COFFEE, None), (name, COFFEE, "image/jpeg"))
    assert await output(client, COLOUR, data=several) == [scores, scores]


async def test_an_image_in_json(serve):
    client = await serve(MODELS)
    text = base64.b64encode(COFFEE).decode()
    scores = await output(client, COLOUR, data=COFFEE)
    for body in (text, {"data": text}, {"body": text}, {"b64": text}):
        assert await output(client, COLOUR, json=body) == scores


async def test_numbers(serve):
    client = await serve(MODELS)
    path = "/predictions/double"
    assert await output(client, path, json=[1, 2]) == [2, 4]
    assert await output(client, path, json={"data": [1, 2]}) == [2, 4]
    # As from curl -T or -d, which do not know that it is JSON.
    assert await output(client, path, data=b"[1, 2]") == [2, 4]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert await output(client, path, data=b"[1, 2]", headers=headers) == [2, 4]
    two = form(("data", b"[1]", "application/json"), ("data", b"[[2]]", "text/plain"))
    assert await output(client, path, data=two) == [[2], [[4]]]


async def test_texts(serve):
    client = await serve(MODELS)
    path = "/predictions/letters"
    assert await output(client, path, data=b"ab") == [97, 98]
    assert await output(client, path, json="ab") == [97, 98]
    assert await output(client, path, data=form(("data", b"ab", "text/plain"))) == [97, 98]


async def test_a_text_is_answered_bare(serve):
    client = await serve(MODELS)
    response = await client.post("/predictions/shout", data="grün".encode())
    assert response.content_type == "text/plain"
    assert await response.text() == "GRÜN"


async def test_large_bodies_are_parsed_beside_the_loop(serve):
    client = await serve(MODELS)
    x = [0.5] * 50_000
    assert len(json.dumps(x)) > INLINE_PARSE_BYTES
    assert await output(client, "/predictions/double", json=x) == [1.0] * 50_000


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        (COLOUR, {"data": b""}, 400, "the body is empty"),
        (COLOUR, {"data": b"no image"}, 422, "is not an image"),
        (COLOUR, {"data": b"{", "headers": JSON}, 400, "the body is not JSON"),
        (COLOUR, {"json": [1]}, 400, "the input is of the wrong type"),
        (f"{COLOUR}?top_k=x", {"data": COFFEE}, 400, "query parameter top_k"),
        (f"{COLOUR}/1", {"data": COFFEE}, 404, "has no version '1'; it has 2.0"),
        ("/predictions/none", {"data": COFFEE}, 404, "there is no model 'none'"),
        ("/predictions/double", {"data": b"\xff"}, 400, "the input is not the JSON that it must"),
        ("/predictions/letters", {"data": b"\xff"}, 400, "the input is not text in UTF-8"),
        (COLOUR, {"data": COFFEE, "headers": {"Content-Encoding": "br"}}, 415, "br is not read"),
    ],
)
async def test_what_is_wrong_is_named(serve, path, request_, status, message):
    client = await serve(MODELS)
    response = await client.post(path, **request_)
    assert response.status == status
    assert message in (await response.json())["error"]


async def test_a_part_of_another_name(serve):
    client = await serve(MODELS)
    response = await client.post(COLOUR, data=form(("file", COFFEE, "image/jpeg")))
    assert response.status == 400
    assert "not named 'data' or 'body'" in (await response.json())["error"]


async def test_predicting_takes_post_and_put(serve):
    client = await serve(MODELS)
    response = await client.get(COLOUR)
    assert response.status == 405
    assert response.headers["Allow"] == "POST,PUT"

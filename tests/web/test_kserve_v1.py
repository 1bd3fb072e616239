"""KServe's first protocol: instances to predictions."""

import base64
from typing import Any

import pytest

from batchserve.config import Config
from batchserve.web.body import INLINE_PARSE_BYTES
from batchserve.web.keys import REPOSITORY
from tests.conftest import photo
from tests.web.clients import Client

MODELS = Config.model_validate(
    {
        "server": {"torch_threads": 1},
        "models": [
            {"name": "double", "source": "tests.models:Double", "device": "cpu"},
            {
                "name": "double",
                "version": "0",
                "source": "tests.models:FailsOnNegative",
                "device": "cpu",
            },
            {
                "name": "colour",
                "source": "tests.models:MeanColour",
                "task": "image-classification",
                "labels": ["r", "g", "b"],
                "image": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8},
                "device": "cpu",
            },
            {
                "name": "letters",
                "source": "torch.nn:Identity",
                "task": "tests.web.v2.models:Characters",
                "device": "cpu",
            },
        ],
    }
)
COFFEE = base64.b64encode(photo("coffee", "JPEG")).decode()
DOUBLE, COLOUR, LETTERS = (f"/v1/models/{name}:predict" for name in ("double", "colour", "letters"))


async def predictions(client: Client, path: str, body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status == 200, await response.text()
    answer = await response.json()
    assert list(answer) == ["predictions"]
    return answer["predictions"]


async def refused(client: Client, path: str, **request: Any) -> tuple[int, str]:
    response = await client.post(path, **request)
    body = await response.json()
    return response.status, body["error"]


async def test_models(serve):
    client = await serve(MODELS)
    assert await (await client.get("/v1/models")).json() == {
        "models": ["double", "colour", "letters"]
    }
    assert await (await client.get("/v1/models/double")).json() == {"name": "double", "ready": True}
    assert (await client.get("/v1/models/none")).status == 404
    client.app[REPOSITORY].drain()
    assert (await client.get("/v1/models/double")).status == 503


async def test_instances_are_answered_in_order(serve):
    client = await serve(MODELS)
    assert await predictions(client, DOUBLE, {"instances": [[1, 2], [3, 4]]}) == [[2, 4], [6, 8]]
    response = await client.post(DOUBLE, json={"instances": [[1, 2], [3, 4]]})
    assert response.headers["X-Batch-Size"] == "2"


async def test_what_others_send_beside_the_instances_passes(serve):
    client = await serve(MODELS)
    body = {"instances": [[1]], "signature_name": "serving_default"}
    assert await predictions(client, DOUBLE, body) == [[2]]
    assert await predictions(client, DOUBLE, {"inputs": [[1]]}) == [[2]]


async def test_large_bodies_are_parsed_beside_the_loop(serve):
    client = await serve(MODELS)
    x = [[0.5] * 1000] * 50
    assert len(str(x)) > INLINE_PARSE_BYTES
    assert await predictions(client, DOUBLE, {"instances": x}) == [[1.0] * 1000] * 50


@pytest.mark.parametrize(
    "instance",
    [
        COFFEE,
        f"data:image/jpeg;base64,{COFFEE}",
        {"b64": COFFEE},
        {"data": COFFEE},
        {"data": {"b64": COFFEE}},
        {"body": COFFEE},
        {"image_bytes": {"b64": COFFEE}},
    ],
    ids=["text", "url", "b64", "data", "data-b64", "body", "named"],
)
async def test_images_in_every_form_that_clients_know(serve, instance):
    client = await serve(MODELS)
    ((best, *_),) = await predictions(client, COLOUR, {"instances": [instance]})
    assert best["label"] == "r"


async def test_texts(serve):
    client = await serve(MODELS)
    instances = ["ab", {"b64": base64.b64encode(b"ab").decode()}, {"data": "ab"}]
    assert await predictions(client, LETTERS, {"instances": instances}) == [[97, 98]] * 3


async def test_numbers_in_the_wrappings_of_torchserve(serve):
    client = await serve(MODELS)
    instances = [{"data": [1]}, {"b64": base64.b64encode(b"[1]").decode()}]
    assert await predictions(client, DOUBLE, {"instances": instances}) == [[2], [2]]


async def test_the_tasks_parameters(serve):
    client = await serve(MODELS)
    body = {"instances": [COFFEE, COFFEE], "parameters": {"top_k": 1}}
    assert [len(labels) for labels in await predictions(client, COLOUR, body)] == [1, 1]
    status, error = await refused(client, COLOUR, json={**body, "parameters": {"top_k": 0}})
    assert status == 400
    assert error.startswith("parameter top_k: ")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (DOUBLE, [], 400, 'the body must be {"instances": [X, …]}'),
        (DOUBLE, {}, 400, 'the body must be {"instances": [X, …]}'),
        (DOUBLE, {"instances": []}, 400, 'the body must be {"instances": [X, …]}'),
        (DOUBLE, {"instances": 1}, 400, 'the body must be {"instances": [X, …]}'),
        (DOUBLE, {"instances": [[1]], "parameters": 1}, 400, "parameters: the body must be"),
        (DOUBLE, {"instances": [[1], ["a"]]}, 422, "inputs[1]: the input must be nested lists"),
        (COLOUR, {"instances": [COFFEE, 1]}, 400, "instances[1]: the input is of the wrong type"),
        (COLOUR, {"instances": [{"b64": 1}]}, 400, "b64: it must be a string in base64"),
        (COLOUR, {"instances": [{"b64": "!"}]}, 422, "instances[0]: the input is not base64"),
        (COLOUR, {"instances": [{"b64": "AAAA"}]}, 422, "is not an image"),
        (LETTERS, {"instances": [{"text": "a"}]}, 400, "instances[0]: the input is of the wrong"),
        ("/v1/models/none:predict", {"instances": [1]}, 404, "there is no model 'none'"),
    ],
)
async def test_what_is_wrong_is_named(serve, path, body, status, message):
    client = await serve(MODELS)
    found, error = await refused(client, path, json=body)
    assert found == status
    assert message in error


@pytest.mark.parametrize("body", [b"", b"{", b"\xff"])
async def test_what_is_no_json(serve, body):
    client = await serve(MODELS)
    status, error = await refused(client, DOUBLE, data=body)
    assert status == 400
    assert error.startswith("the body is not JSON: ")


async def test_deep_wrappings_end(serve):
    client = await serve(MODELS)
    body = b'{"instances":[' + b'{"data":' * 500 + b"1" + b"}" * 500 + b"]}"
    assert (await refused(client, DOUBLE, data=body))[0] == 400


async def test_predicting_is_posted(serve):
    client = await serve(MODELS)
    response = await client.get(DOUBLE)
    assert response.status == 405
    assert response.headers["Allow"] == "POST"
    assert (await client.post("/v1/models/double", json={})).status == 405
    assert (await client.post("/v1/models/double:explain", json={})).status == 405

"""What clients ask before they infer."""

import asyncio
from typing import Any

import pytest

from batchserve import __version__
from batchserve.config import Config
from batchserve.repository import State
from batchserve.repository.version import Progress
from batchserve.web.keys import REPOSITORY
from tests.web.clients import Client

SERVER = {"torch_threads": 1}
MODELS = Config.model_validate(
    {
        "server": SERVER,
        "models": [
            {
                "name": "tiny",
                "version": "2",
                "source": "tests.models:tiny",
                "device": "cpu",
                "batching": {"max_batch_size": 4, "max_wait_ms": 3},
            },
            {"name": "tiny", "version": "1", "source": "tests.models:tiny", "device": "cpu"},
            {"name": "double", "source": "tests.models:Double", "device": "cpu"},
            {
                "name": "colour",
                "source": "tests.models:MeanColour",
                "task": "image-classification",
                "image": {"resize": 8, "crop": 8},
                "device": "cpu",
            },
            {
                "name": "several",
                "source": "tests.web.v2.models:Several",
                "input_shape": [-1],
                "device": "cpu",
            },
            {
                "name": "tokens",
                "source": "tests.web.v2.models:MaskedSum",
                "task": "tests.web.v2.models:Tokens",
                "device": "cpu",
            },
        ],
    }
)
PROBES = ["/v2/health/live", "/v2/health/ready"]


async def get(client: Client, path: str) -> Any:
    response = await client.get(path)
    assert response.status == 200, path
    return await response.json()


async def end_loop(client: Client, index: int) -> None:
    """End a model's batching loop, as no request can."""
    loop = client.app[REPOSITORY].versions[index].batcher._loop
    loop.cancel()
    await asyncio.wait([loop])


async def test_the_server(serve):
    client = await serve(MODELS)
    assert await get(client, "/v2") == {
        "name": "batchserve",
        "version": __version__,
        "extensions": [
            *("binary_tensor_data", "classification", "model_configuration", "schedule_policy"),
            "statistics",
        ],
    }


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("tiny", [("input", "FP32", [-1, 10])], [("output", "FP32", [-1, 10])]),
        # Nothing tells what it takes, nor therefore what it gives.
        ("double", [("input", "FP32", [-1, -1])], []),
        ("colour", [("input", "BYTES", [-1, 1])], [("output", "FP32", [-1, 3])]),
        (
            "several",
            [("input", "FP32", [-1, -1])],
            [
                ("double", "FP32", [-1, -1]),
                ("positive", "BOOL", [-1, -1]),
                ("sum", "FP32", [-1]),
            ],
        ),
        ("tokens", [("input_ids", "INT64", [-1, -1]), ("attention_mask", "INT64", [-1, -1])], []),
    ],
)
async def test_inputs_and_outputs(serve, name, inputs, outputs):
    def described(tensors: list[Any]) -> list[dict[str, Any]]:
        return [dict(zip(("name", "datatype", "shape"), each, strict=True)) for each in tensors]

    client = await serve(MODELS)
    assert await get(client, f"/v2/models/{name}") == {
        "name": name,
        "versions": ["2", "1"] if name == "tiny" else ["1"],
        "platform": "pytorch_module",
        "inputs": described(inputs),
        "outputs": described(outputs),
    }


async def test_the_configuration_that_tritons_tools_ask_for(serve):
    client = await serve(MODELS)
    assert await get(client, "/v2/models/tiny/versions/2/config") == {
        "name": "tiny",
        "platform": "pytorch_module",
        "max_batch_size": 4,
        "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [10]}],
        "output": [{"name": "output", "data_type": "TYPE_FP32", "dims": [10]}],
        "dynamic_batching": {"max_queue_delay_microseconds": 3000},
    }
    colour = await get(client, "/v2/models/colour/config")
    assert colour["input"] == [{"name": "input", "data_type": "TYPE_STRING", "dims": [1]}]


@pytest.mark.parametrize("what", ["", "/config", "/ready", "/stats"])
async def test_models_and_versions_that_do_not_exist(serve, what):
    client = await serve(MODELS)
    for path, message in [
        ("none", "there is no model 'none'; served are colour, double, several, tiny, tokens"),
        ("%C3%BC%20x", "there is no model 'ü x'"),
        ("tiny/versions/3", "model 'tiny' has no version '3'; it has 2, 1"),
    ]:
        response = await client.get(f"/v2/models/{path}{what}")
        assert response.status == 404
        assert message in (await response.json())["error"]


async def test_head_is_get_without_its_body(serve):
    client = await serve(MODELS)
    for path in ["/v2", *PROBES, "/v2/models/tiny", "/v2/models/tiny/ready", "/v2/models/stats"]:
        response = await client.head(path)
        assert response.status == 200
        assert await response.read() == b""
        assert (await client.post(path)).status == 405


# Health.


async def test_alive_and_ready(serve):
    client = await serve(MODELS)
    assert await get(client, "/v2/health/live") == {"live": True}
    assert await get(client, "/v2/health/ready") == {"live": True, "ready": True}
    assert await get(client, "/v2/models/tiny/ready") == {"name": "tiny", "ready": True}
    assert await get(client, "/v2/models/tiny/versions/1/ready") == {"name": "tiny", "ready": True}


async def test_a_broken_version_is_not_ready_and_neither_is_the_server(serve):
    client = await serve(MODELS)
    await end_loop(client, 1)
    for path in [*PROBES, "/v2/models/tiny/versions/1/ready"]:
        response = await client.get(path)
        assert response.status == 503, path
        assert (await response.json())["code"] == "model_not_ready"
    assert (await client.get("/v2/models/tiny/ready")).status == 200


async def test_a_server_that_drains_lives_and_is_not_ready(serve):
    client = await serve(MODELS)
    client.app[REPOSITORY].drain()
    assert (await client.get("/v2/health/live")).status == 200
    assert (await client.get("/v2/health/ready")).status == 503
    assert (await client.get("/v2/models/tiny/ready")).status == 503
    # It can still be described.
    assert (await client.get("/v2/models/tiny")).status == 200


async def test_a_version_that_loads_cannot_be_described_yet(serve):
    client = await serve(MODELS)
    version = client.app[REPOSITORY].versions[2]
    version.state, version.progress = State.LOADING, Progress("loading")
    version.loaded = False
    for what in ("", "/config", "/ready"):
        response = await client.get(f"/v2/models/double{what}")
        assert response.status == 503
        assert (await response.json())["error"] == "model 'double' version '1' is loading"


# The repository.


async def index(client: Client, **request: Any) -> dict[str, tuple[str, str]]:
    response = await client.post("/v2/repository/index", **request)
    assert response.status == 200
    entries = await response.json()
    return {
        f"{entry['name']}:{entry['version']}": (entry["state"], entry["reason"])
        for entry in entries
    }


async def test_the_index(serve):
    client = await serve(MODELS)
    names = ["tiny:2", "tiny:1", "double:1", "colour:1", "several:1", "tokens:1"]
    assert await index(client) == dict.fromkeys(names, ("READY", ""))
    assert await index(client, json={}) == await index(client, data=b"") == await index(client)


@pytest.mark.parametrize(
    ("state", "called"),
    [
        (State.LOADING, "LOADING"),
        (State.WARMING, "LOADING"),
        (State.DRAINING, "UNLOADING"),
        (State.FAILED, "UNAVAILABLE"),
    ],
)
async def test_the_index_tells_what_is_not_ready_and_why(serve, state, called):
    client = await serve(MODELS)
    client.app[REPOSITORY].versions[2].state = state
    assert (await index(client))["double:1"] == (called, str(state))
    ready = await index(client, json={"ready": True})
    assert "double:1" not in ready
    assert len(ready) == 5
    assert len(await index(client, json={"ready": False})) == 6


async def test_a_broken_version_is_unavailable(serve):
    client = await serve(MODELS)
    await end_loop(client, 1)
    state, reason = (await index(client))["tiny:1"]
    assert state == "UNAVAILABLE"
    assert reason


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b"\xff"])
async def test_what_is_no_question_about_the_index(serve, body):
    client = await serve(MODELS)
    response = await client.post("/v2/repository/index", data=body)
    assert response.status == 400
    assert (await response.json())["code"] == "bad_request"

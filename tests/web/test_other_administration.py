"""Triton's and TorchServe's clients change what is served."""

import json
import warnings
from typing import Any

import pytest
import torch
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from batchserve.config import Config
from tests.web.clients import Client

TOKEN = "correct-horse-battery"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
SECTION = {"source": "tests.models:Double", "input_shape": [1], "device": "cpu"}


@pytest.fixture
async def client(serve, tmp_path) -> Client:
    """A server with tiny:1, which doubles, and a file whose model does nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises another format
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "same.pt"))
    config = Config.model_validate(
        {
            "server": {"admin_token": TOKEN, "torch_threads": 1, "model_folder": str(tmp_path)},
            "models": [{"name": "tiny", **SECTION}],
        },
        context={"folder": tmp_path},
    )
    started: Client = await serve(config)
    return started


async def versions(client: Client, name: str) -> dict[str, str]:
    response = await client.get(f"/models/{name}")
    body = await response.json()
    found = body.get("versions", [])
    return {version["version"]: version["state"] for version in found}


async def ask(client: Client, path: str) -> Any:
    response = await client.post(path, json={"input": [3.0]})
    return (await response.json()).get("output")


@pytest.fixture
async def triton(client):
    async with InferenceServerClient(f"127.0.0.1:{client.port}") as started:
        yield started


async def test_triton_unloads_and_loads(client, triton):
    await triton.unload_model("tiny", headers=AUTH)
    assert await versions(client, "tiny") == {}
    assert not await triton.is_model_ready("tiny")
    await triton.load_model("tiny", headers=AUTH)
    assert await triton.is_model_ready("tiny")
    assert await ask(client, "/predict") == [6.0]
    # Once more, beside itself.
    await triton.load_model("tiny", headers=AUTH)
    assert await versions(client, "tiny") == {"1": "ready"}


async def test_triton_loads_what_a_config_describes(client, triton):
    await triton.load_model("other", headers=AUTH, config=json.dumps(SECTION))
    assert await ask(client, "/models/other/predict") == [6.0]
    assert "model_repository" in (await triton.get_server_metadata())["extensions"]


async def test_triton_is_told_what_is_wrong(client, triton):
    for arguments, words in (
        ({"config": "{nonsense"}, "not JSON"),
        ({"config": json.dumps({"source": "os:system"})}, "os:system"),
        ({"config": json.dumps(SECTION), "files": {"file:1/model.pt": b"x"}}, "file:1/model.pt"),
    ):
        with pytest.raises(InferenceServerException, match=words):
            await triton.load_model("other", headers=AUTH, **arguments)
    with pytest.raises(InferenceServerException, match="no model 'none'"):
        await triton.unload_model("none", headers=AUTH)
    with pytest.raises(InferenceServerException, match="no token"):
        await triton.unload_model("tiny")
    assert await versions(client, "tiny") == {"1": "ready"}


async def test_torchserve_registers_sets_the_default_and_unregisters(client):
    query = "url=same.pt&model_name=tiny&version=2&batch_size=2"
    response = await client.post(f"/models?{query}", headers=AUTH)
    assert response.status == 200, await response.text()
    assert await response.json() == {"status": 'Model "tiny" Version: 2 registered'}
    assert await ask(client, "/predict") == [6.0]
    assert (await client.put("/models/tiny/2/set-default", headers=AUTH)).status == 200
    assert await ask(client, "/predict") == [3.0]
    # The current one is needed.
    assert (await client.delete("/models/tiny/2", headers=AUTH)).status == 409
    assert (await client.delete("/models/tiny/1", headers=AUTH)).status == 200
    assert await versions(client, "tiny") == {"2": "ready"}
    assert (await client.delete("/models/tiny", headers=AUTH)).status == 200
    assert (await client.post("/predictions/tiny", json=[1.0])).status == 404


@pytest.mark.parametrize("path", ["/models/tiny", "/models/tiny/1"])
async def test_that_models_are_not_scaled_is_said(client, path):
    response = await client.put(f"{path}?min_worker=4", headers=AUTH)
    assert response.status == 409
    assert "server.workers=1" in (await response.json())["error"]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "url"),
        ("url=../../etc/passwd", 403, "model_folder"),
        ("url=same.pt&batch_size=many", 400, "batch_size"),
    ],
)
async def test_torchserve_is_told_what_is_wrong(client, query, status, words):
    response = await client.post(f"/models?{query}", headers=AUTH)
    assert response.status == status, await response.text()
    assert words in (await response.json())["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/models?url=same.pt"),
        ("PUT", "/models/tiny"),
        ("PUT", "/models/tiny/1"),
        ("PUT", "/models/tiny/1/set-default"),
        ("DELETE", "/models/tiny"),
        ("DELETE", "/models/tiny/1"),
        ("POST", "/v2/repository/models/tiny/load"),
        ("POST", "/v2/repository/models/tiny/unload"),
    ],
)
async def test_without_the_token_nothing_changes(client, method, path):
    for headers in ({}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}):
        assert (await client.request(method, path, headers=headers)).status == 401
    assert await versions(client, "tiny") == {"1": "ready"}

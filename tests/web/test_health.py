"""What probes see of a server that is ready, draining or broken."""

import asyncio

import pytest

from batchserve.config import Config
from batchserve.repository import State
from batchserve.web.keys import REPOSITORY, TRAFFIC
from tests.web.clients import Client

# One thread: the models are small, and the cores may be busy.
TWO_MODELS = Config.model_validate(
    {
        "server": {"torch_threads": 1},
        "models": [
            {"name": "first", "source": "tests.models:Double", "device": "cpu"},
            {"name": "second", "version": "2", "source": "tests.models:Double", "device": "cpu"},
        ],
    }
)
READINESS = ["/readyz", "/healthz", "/ping"]


async def break_model(client: Client, index: int) -> None:
    """End a model's batching loop, as no request can."""
    loop = client.app[REPOSITORY].versions[index].batcher._loop
    loop.cancel()
    await asyncio.wait([loop])


@pytest.mark.parametrize("path", READINESS)
async def test_ready(serve, path):
    client = await serve(TWO_MODELS)
    response = await client.get(path)
    assert response.status == 200
    assert await response.json() == {"status": "Healthy" if path == "/ping" else "ready"}


@pytest.mark.parametrize("path", READINESS)
async def test_draining(serve, path):
    client = await serve(TWO_MODELS)
    client.app[REPOSITORY].drain()
    response = await client.get(path)
    body = await response.json()
    assert response.status == 503
    assert set(body) == {"error", "code"}
    assert body["error"] == "first:1 is draining; second:2 is draining"
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("path", READINESS)
@pytest.mark.parametrize(("index", "name"), [(0, "first:1"), (1, "second:2")])
async def test_one_model_of_two_is_broken(serve, path, index, name):
    client = await serve(TWO_MODELS)
    await break_model(client, index)
    response = await client.get(path)
    body = await response.json()
    assert response.status == 503
    assert body["code"] == "model_not_ready"
    assert body["error"] == f"{name} is lost: the batching loop has ended"
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("state", [State.LOADING, State.WARMING, State.FAILED])
@pytest.mark.parametrize("path", READINESS)
async def test_one_model_of_two_cannot_answer_yet(serve, path, state, monkeypatch):
    client = await serve(TWO_MODELS)
    with monkeypatch.context() as patched:
        patched.setattr(client.app[REPOSITORY].versions[1], "state", state)
        response = await client.get(path)
    assert response.status == 503
    assert (await response.json())["error"] == f"second:2 is {state}"
    assert (await client.get(path)).status == 200


async def test_a_broken_model_takes_no_other_with_it(serve):
    client = await serve(TWO_MODELS)
    await break_model(client, 0)
    broken = await client.post("/models/first/predict", json={"input": [1]})
    assert broken.status == 503
    other = await client.post("/models/second/predict", json={"input": [1]})
    assert (await other.json())["output"] == [2.0]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/readyz", {"status": "ready", "failed": ["first:1"]}),
        ("/healthz", {"status": "ready", "failed": ["first:1"]}),
        ("/ping", {"status": "Healthy"}),
        ("/v2/health/ready", {"live": True, "ready": True}),
    ],
)
async def test_a_model_that_could_not_be_loaded_is_named_and_the_others_serve(serve, path, said):
    broken = {"name": "first", "source": "tests.models:broken", "device": "cpu"}
    good = {"name": "second", "source": "tests.models:Double", "device": "cpu"}
    config = {"server": {"torch_threads": 1}, "models": [broken, good]}
    client = await serve(Config.model_validate(config))
    response = await client.get(path)
    assert response.status == 200
    assert await response.json() == said
    assert (await client.post("/models/second/predict", json={"input": [1]})).status == 200
    # It was the first, and still is.
    for asked in ("/predict", "/models/first/predict"):
        answer = await client.post(asked, json={"input": [1]})
        assert answer.status == 503
        body = await answer.json()
        assert body["code"] == "model_not_ready"
        assert "is failed: model first: " in body["error"]
    failed, _ = (await (await client.get("/models")).json())["models"]
    assert (failed["state"], failed["current"]) == ("failed", True)
    assert "no such luck" in failed["error"]
    for page in ("/", "/openapi.json", "/metrics", "/debug/batches", "/docs"):
        assert (await client.get(page)).status == 200


@pytest.mark.parametrize("state", ["ready", "draining"])
async def test_the_process_lives_whatever_the_models_do(serve, state):
    client = await serve(TWO_MODELS)
    if state == "draining":
        client.app[REPOSITORY].drain()
    response = await client.get("/livez")
    assert response.status == 200
    assert await response.json() == {"status": "live"}


@pytest.mark.parametrize("path", ["/livez", *READINESS])
async def test_a_model_that_is_lost_for_good_fails_liveness_and_readiness(serve, path):
    client = await serve(TWO_MODELS)
    client.app[REPOSITORY].versions[1].batcher.lost = "CUDA error: unspecified launch failure"
    response = await client.get(path)
    assert response.status == 503
    assert await response.json() == {
        "error": "second:2 is lost: CUDA error: unspecified launch failure",
        "code": "model_not_ready",
    }


@pytest.mark.parametrize("path", READINESS)
async def test_a_worker_that_leaves_is_not_ready_but_predicts(serve, path):
    client = await serve(TWO_MODELS)
    traffic = client.app[TRAFFIC]
    traffic.draining, traffic.dismissing = "the server is shutting down", True
    response = await client.get(path)
    assert response.status == 503
    assert await response.json() == {"error": "the server is shutting down", "code": "draining"}
    predicted = await client.post("/predict", json={"input": [1]})
    assert predicted.status == 200
    assert (await client.get("/livez")).status == 200


@pytest.mark.parametrize("path", ["/livez", "/nowhere", "/docs"])
async def test_a_worker_that_leaves_has_clients_use_another_connection(serve, path):
    client = await serve(TWO_MODELS)
    assert "Connection" not in (await client.get(path)).headers
    client.app[TRAFFIC].dismissing = True
    assert (await client.get(path)).headers["Connection"] == "close"
    assert client.app[TRAFFIC].in_progress == 0
    assert client.app[TRAFFIC].count == 2


@pytest.mark.parametrize("path", ["/livez", *READINESS])
async def test_probes_may_ask_for_the_head_only(serve, path):
    client = await serve(TWO_MODELS)
    response = await client.head(path)
    assert response.status == 200
    assert await response.read() == b""


@pytest.mark.parametrize("path", ["/livez", *READINESS])
async def test_probes_need_nothing_of_a_model(serve, path):
    client = await serve(TWO_MODELS)
    passes = [version.batcher.passes for version in client.app[REPOSITORY].versions]
    runners = [each.runner for each in passes]
    for each in passes:
        each.runner = None
    assert (await client.get(path)).status == 200
    # The gauges are sampled twice a second, and in the end everything is closed.
    for each, runner in zip(passes, runners, strict=True):
        each.runner = runner

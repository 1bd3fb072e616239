"""Paths of the operator's own: the model's answer, or the default in its place, in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgpack
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from batchserve.config import OUR_PATHS, Config
from batchserve.config_file import read_config
from batchserve.errors import ConfigError, NotFound
from batchserve.repository import State
from batchserve.web.formats import MSGPACK, NPY
from batchserve.web.keys import REPOSITORY
from batchserve.web.routes import ROUTES
from tests.web.clients import Client, batcher_of, gate, until
from tests.web.test_arrays import packed, saved
from tests.web.test_body import COLOUR_MODEL, best_of, form, picture, text64
from tests.web.test_errors import check_error

SERVER = {"torch_threads": 1}
DOUBLE: dict[str, Any] = {"name": "double", "source": "tests.models:Double", "device": "cpu"}
PATH = "/digits/predict"
DEFAULT = {"label": "unknown"}
HASTY = {"slo_ms": 50, "default_output": DEFAULT}

At = Callable[..., Awaitable[Client]]


@pytest.fixture
def at(serve) -> At:
    """Return a function that serves an endpoint, as described, of a model, changed as asked."""

    async def start(
        endpoint: dict[str, Any] | None = None, model: dict[str, Any] | None = None
    ) -> Client:
        described = {**DOUBLE, "batching": {"max_batch_size": 1}, **(model or {})}
        client: Client = await serve(
            Config.model_validate(
                {
                    "server": described.pop("server", SERVER),
                    "models": [described],
                    "endpoints": [{"path": PATH, "model": described["name"], **(endpoint or {})}],
                }
            )
        )
        return client

    return start


def check_prediction(found: dict[str, Any], output: Any, name: str = "double") -> None:
    query_id = found.pop("query_id")
    assert 0 <= query_id < 2**53
    assert found == {"output": output, "default": False, "model": name, "version": "1"}


def check_default(found: dict[str, Any], *mentioned: str, output: Any = DEFAULT) -> None:
    assert isinstance(found.pop("query_id"), int)
    explanation = found.pop("default_explanation")
    for words in mentioned:
        assert words in explanation
    assert found == {"output": output, "default": True, "model": "double", "version": "1"}


async def defaults(client: Client) -> dict[str, float]:
    """Return how often the default was answered, by reason."""
    text = await (await client.get("/metrics")).text()
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "batchserve_defaults_total" and sample.labels["endpoint"] == PATH
    }


async def answered(client: Client, status: int = 200, **asked) -> dict[str, Any]:
    response = await client.post(PATH, **asked)
    found: dict[str, Any] = await response.json()
    assert response.status == status, found
    return found


# The model answers.


@pytest.mark.parametrize("endpoint", [{}, {"slo_ms": 20_000}, {**HASTY, "slo_ms": 20_000}])
async def test_the_model_answers(at, endpoint):
    client = await at(endpoint)
    response = await client.post(PATH, json={"input": [1, 2]})
    assert response.headers["X-Batch-Size"] == "1"
    check_prediction(await response.json(), [2.0, 4.0])
    several = await answered(client, json={"input_batch": [[1], [2], [3]]})
    assert set(several) == {"batch_predictions"}
    for found, output in zip(several["batch_predictions"], ([2.0], [4.0], [6.0]), strict=True):
        check_prediction(found, output)
    (alone,) = (await answered(client, json={"input_batch": [[4]]}))["batch_predictions"]
    check_prediction(alone, [8.0])
    assert await defaults(client) == {}


async def test_each_query_has_a_number_of_its_own(at):
    client = await at()
    bodies = [await answered(client, json={"input_batch": [[1], [2]]}) for _ in range(3)]
    numbers = [one["query_id"] for body in bodies for one in body["batch_predictions"]]
    assert len(set(numbers)) == 6


async def test_the_path_leads_to_the_version_that_it_names(serve):
    models = [{**DOUBLE, "version": "2"}, {**DOUBLE, "version": "1", "source": "torch.nn:Identity"}]
    endpoints = [
        {"path": "/now", "model": "double"},
        {"path": "/before/that", "model": "double", "version": 1},
    ]
    client = await serve(
        Config.model_validate({"server": SERVER, "models": models, "endpoints": endpoints})
    )
    for path, output, version in [("/now", [6.0], "2"), ("/before/that", [3.0], "1")]:
        found = await (await client.post(path, json={"input": [3]})).json()
        assert (found["output"], found["version"]) == (output, version)


async def test_all_forms_of_input_come_in_here_too(at):
    client = await at(model=COLOUR_MODEL)
    bodies: list[dict[str, Any]] = [
        {"json": {"input": text64(picture("g"))}},
        {"data": picture("g"), "headers": {"Content-Type": "image/png"}},
        {"data": form(picture("g"))},
        {"data": msgpack.packb({"input": picture("g")}), "headers": {"Content-Type": MSGPACK}},
    ]
    for body in bodies:
        assert best_of((await answered(client, **body))["output"]) == "g"
    two = await answered(client, data=form(picture("b"), picture("r")))
    assert [best_of(one["output"]) for one in two["batch_predictions"]] == ["b", "r"]
    (best,) = (await (await client.post(f"{PATH}?top_k=1", **bodies[1])).json())["output"]
    assert best["label"] == "g"


async def test_arrays_come_in_and_messagepack_goes_out(at):
    client = await at(model={"input_shape": [2]})
    array = np.ones((3, 2))
    headers = {"Content-Type": NPY, "Accept": MSGPACK}
    response = await client.post(PATH, data=saved(array), headers=headers)
    found = msgpack.unpackb(await response.read())["batch_predictions"]
    assert [one["output"] for one in found] == [[2.0, 2.0]] * 3
    body = msgpack.packb({"input_batch": packed(array)})
    several = await answered(client, data=body, headers={"Content-Type": MSGPACK})
    assert len(several["batch_predictions"]) == 3
    refused = await client.post(PATH, json={"input": [1, 2]}, headers={"Accept": NPY})
    await check_error(refused, 406, "not_acceptable")


# The default answers.


@pytest.mark.parametrize("output", [0, "0", [], False, {"a": [1.5, None]}])
async def test_the_deadline_passes_while_the_model_computes(at, output):
    client = await at({"slo_ms": 50, "default_output": output})
    runner = gate(client)
    response = await client.post(PATH, json={"input": [1]})
    assert response.status == 200
    # The pass is still going on.
    assert batcher_of(client).in_flight == 1
    check_default(await response.json(), "no answer within", output=output)
    assert await defaults(client) == {"deadline_exceeded": 1.0}
    runner.release()


async def test_the_deadline_passes_in_the_queue(at):
    client = await at(HASTY)
    runner = gate(client)
    first = asyncio.create_task(client.post("/predict", json={"input": [1]}))
    await runner.wait_started()
    check_default(await answered(client, json={"input": [2]}))
    runner.release()
    assert (await first).status == 200
    assert [batch[0].tolist() for batch in runner.batches] == [[1.0]], "2 was computed"


async def test_each_of_a_list_gets_the_default(at):
    client = await at(HASTY)
    runner = gate(client)
    several = await answered(client, json={"input_batch": [[1], [2], [3]]})
    assert len(several["batch_predictions"]) == 3
    for found in several["batch_predictions"]:
        check_default(found, "no answer within")
    assert await defaults(client) == {"deadline_exceeded": 1.0}
    runner.release()


async def test_no_client_can_put_the_deadline_off(at):
    client = await at(HASTY)
    runner = gate(client)
    headers = {"X-Request-Timeout-Ms": "20000"}
    check_default(await answered(client, json={"input": [1]}, headers=headers), "no answer within")
    runner.release()


async def test_a_client_may_want_it_sooner(at):
    client = await at({**HASTY, "slo_ms": 20_000})
    runner = gate(client)
    headers = {"X-Request-Timeout-Ms": "30"}
    check_default(await answered(client, json={"input": [1]}, headers=headers), "no answer within")
    runner.release()


async def test_the_deadline_passes_while_the_request_is_sent(at):
    client = await at(HASTY)
    over = asyncio.Event()

    async def unfinished() -> AsyncIterator[bytes]:
        yield b'{"input_batch": [[1], '
        await over.wait()

    headers = {"Content-Type": "application/json"}
    found = await answered(client, data=unfinished(), headers=headers)
    # How many inputs it would have had, nobody knows.
    check_default(found, "in time")
    over.set()


@pytest.mark.parametrize("asked", [{"input": [2]}, {"input_batch": [[2], [3]]}], ids=str)
async def test_a_full_queue(at, asked):
    model = {"batching": {"max_batch_size": 1, "max_queue_size": 2}}
    client = await at({**HASTY, "slo_ms": 20_000}, model)
    runner, batcher = gate(client), batcher_of(client)
    waiting = [asyncio.create_task(client.post("/predict", json={"input": [0]}))]
    await runner.wait_started()
    waiting.append(asyncio.create_task(client.post("/predict", json={"inputs": [[0], [0]]})))
    await until(lambda: batcher.queued == 2)
    found = await answered(client, json=asked)
    answers = found["batch_predictions"] if "input_batch" in asked else [found]
    assert len(answers) == len(next(iter(asked.values())))
    for one in answers:
        check_default(one, "max_queue_size=2")
    assert await defaults(client) == {"queue_full": 1.0}
    for _ in range(3):
        runner.release()
    assert [response.status for response in await asyncio.gather(*waiting)] == [200, 200]


async def test_a_model_that_fails(at):
    client = await at({**HASTY, "slo_ms": 20_000}, {"source": "tests.models:FailsOnNegative"})
    check_default(await answered(client, json={"input": [-1]}), "log")
    check_prediction(await answered(client, json={"input": [1]}), [2.0])
    assert await defaults(client) == {"model_failed": 1.0}


async def test_a_server_that_is_stopping(at):
    client = await at(HASTY)
    client.app[REPOSITORY].drain()
    check_default(await answered(client, json={"input": [1]}), "shutting down")
    assert await defaults(client) == {"draining": 1.0}


@pytest.mark.parametrize("state", [State.LOADING, State.WARMING, State.FAILED])
async def test_a_model_that_is_not_ready(at, state):
    client = await at(HASTY)
    (version,) = client.app[REPOSITORY].versions
    version.state, version.loaded = state, False
    check_default(await answered(client, json={"input": [1]}), str(state))
    several = await answered(client, json={"input_batch": [[1], "whatever"]})
    assert len(several["batch_predictions"]) == 2
    image = await answered(client, data=picture(), headers={"Content-Type": "image/png"})
    check_default(image, str(state))
    assert await defaults(client) == {"model_not_ready": 3.0}
    version.state, version.loaded = State.READY, True


async def test_a_model_that_was_taken_away(at, monkeypatch):
    client = await at(HASTY)

    def find(*_: Any) -> None:
        raise NotFound("there is no model 'double'")

    monkeypatch.setattr(client.app[REPOSITORY], "find", find)
    found = await answered(client, json={"input": [1]})
    assert (found["default"], found["version"], found["output"]) == (True, None, DEFAULT)
    assert await defaults(client) == {"model_not_ready": 1.0}


# The client is wrong, and no default hides it.


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"data": b"{"}, 400, "bad_request"),
        ({"json": {"inputs": [[1]]}}, 400, "bad_request"),
        ({"json": {"input": [1], "input_batch": [[1]]}}, 400, "bad_request"),
        ({"json": {"input_batch": []}}, 400, "bad_request"),
        ({"json": {"input": "text"}}, 422, "invalid_input"),
        ({"json": {"input_batch": [[1], "text"]}}, 422, "invalid_input"),
        ({"json": {"input_batch": [[1]] * 257}}, 413, "too_large"),
        ({"data": b"1", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"json": {"input": 1}, "params": {"top_k": 1}}, 400, "bad_request"),
        ({"json": {"input": 1}, "headers": {"X-Priority": "x"}}, 400, "bad_request"),
    ],
    ids=range(10),
)
async def test_a_bad_request_gets_no_default(at, asked, status, code):
    client = await at({**HASTY, "slo_ms": 20_000})
    if "data" in asked and "headers" not in asked:
        asked = {**asked, "headers": {"Content-Type": "application/json"}}
    await check_error(await client.post(PATH, **asked), status, code)
    assert await defaults(client) == {}


async def test_too_long_a_list_is_refused_even_when_nothing_could_be_computed(at):
    client = await at(HASTY)
    client.app[REPOSITORY].drain()
    response = await client.post(PATH, json={"input_batch": [0] * 257})
    await check_error(response, 413, "too_large", "256")


async def test_only_a_post_is_answered(at):
    client = await at(HASTY)
    await check_error(await client.get(PATH), 405, "method_not_allowed", "POST")


# Without a default.


async def test_without_a_default_the_deadline_is_an_error(at):
    client = await at({"slo_ms": 50})
    runner = gate(client)
    await check_error(await client.post(PATH, json={"input": [1]}), 504, "deadline_exceeded")
    runner.release()


async def test_without_a_default_a_refusal_is_an_error(at):
    client = await at()
    client.app[REPOSITORY].drain()
    response = await client.post(PATH, json={"input": [1]})
    await check_error(response, 503, "draining")
    assert int(response.headers["Retry-After"]) >= 1


# The config.


def described(*endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"server": SERVER, "models": [DOUBLE], "endpoints": list(endpoints)}


@pytest.mark.parametrize(
    ("endpoint", "mentioned"),
    [
        ({"path": "/predict"}, "/predict are the server's own"),
        ({"path": "/models/double/ask"}, "/models are the server's own"),
        ({"path": "/v2/models/double/infer"}, "/v2"),
        ({"path": "digits"}, "endpoints.0.path"),
        ({"path": "/"}, "endpoints.0.path"),
        ({"path": "/a b"}, "endpoints.0.path"),
        ({"path": "/{name}/predict"}, "endpoints.0.path"),
        ({"path": "/a?b"}, "endpoints.0.path"),
        ({"path": "/a/"}, "endpoints.0.path"),
        ({"model": "other"}, "there is no model 'other'; there is double"),
        ({"version": "2"}, "has no version '2'; it has 1"),
        ({"slo_ms": 0}, "endpoints.0.slo_ms"),
        ({"slo_ms": 40_000}, "above server.default_timeout_ms (30000)"),
        ({"default": 1}, "did you mean 'default_output'?"),
    ],
)
def test_an_endpoint_that_cannot_be(tmp_path, endpoint, mentioned):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(described({"path": PATH, "model": "double", **endpoint})))
    with pytest.raises(ConfigError, match="endpoints") as caught:
        read_config(path, {})
    assert mentioned in str(caught.value)


def test_two_endpoints_of_one_path():
    with pytest.raises(ValueError, match="listed twice"):
        Config.model_validate(described(*[{"path": PATH, "model": "double"}] * 2))


def test_no_route_of_ours_can_be_taken():
    firsts = {route.path.split("/")[1] for route in ROUTES} - {""}
    assert firsts <= OUR_PATHS

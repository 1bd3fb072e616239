"""What operators see: the models, and every metric of the contract with its counts."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchserve.config import Config, EndpointConfig
from batchserve.repository.wanted import Candidate
from batchserve.testing import FakeRunner
from batchserve.web.keys import METRICS, REPOSITORY, SHADOW
from tests.web.clients import Client, batcher_of, gate, until

# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
DOUBLE: dict[str, Any] = {"server": SERVER, "source": "tests.models:Double"}
AGES_MS = 20_000
JSON, NPY = "application/json", "application/x-npy"
MSGPACK = ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
CONTRACT = {
    "batchserve_requests": "counter",
    "batchserve_request_seconds": "histogram",
    "batchserve_items": "counter",
    "batchserve_decode_seconds": "histogram",
    "batchserve_queue_seconds": "histogram",
    "batchserve_forward_seconds": "histogram",
    "batchserve_batch_size": "histogram",
    "batchserve_batches": "counter",
    "batchserve_queue_items": "gauge",
    "batchserve_in_flight_items": "gauge",
    "batchserve_passes_at_once": "gauge",
    "batchserve_rejected": "counter",
    "batchserve_backlog_seconds": "gauge",
    "batchserve_faults": "counter",
    "batchserve_defaults": "counter",
    "batchserve_slo_seconds": "gauge",
    "batchserve_workers": "gauge",
    "batchserve_canary_fallbacks": "counter",
    "batchserve_shadow_requests": "counter",
    "batchserve_shadow_items": "counter",
    "batchserve_shadow_difference": "histogram",
    "batchserve_shadow_max_difference": "gauge",
    "batchserve_shadow_forward_seconds": "histogram",
}
LABELS = {
    "batchserve_requests": {"code"},
    "batchserve_batches": {"reason"},
    "batchserve_rejected": {"reason"},
    "batchserve_faults": {"kind"},
    "batchserve_defaults": {"endpoint", "reason"},
    "batchserve_canary_fallbacks": {"reason"},
    "batchserve_shadow_requests": {"current", "outcome"},
    "batchserve_shadow_items": {"current", "likeness"},
    "batchserve_shadow_difference": {"current"},
    "batchserve_shadow_max_difference": {"current"},
    "batchserve_shadow_forward_seconds": {"current", "whose"},
}


async def scrape(client: Client) -> list[Any]:
    response = await client.get("/metrics")
    assert response.status == 200
    assert response.content_type == "text/plain"
    return [
        family
        for family in text_string_to_metric_families(await response.text())
        # When each series began, which a single process tells, too.
        if not family.name.endswith("_created")
    ]


async def values(client: Client, name: str, **labels: str) -> dict[str, float]:
    """Return the samples of a name with these labels, by their other labels' values."""
    return {
        ",".join(
            value for label, value in sorted(sample.labels.items()) if label not in labels
        ): sample.value
        for family in await scrape(client)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


async def value(client: Client, name: str) -> float:
    """Return the one sample of a name of the one model."""
    return (await values(client, name, model="tiny", version="1"))[""]


async def by(client: Client, name: str) -> dict[str, float]:
    """Return a counter of the one model by its other label, where it has counted anything."""
    counted = await values(client, name, model="tiny", version="1")
    return {label: count for label, count in counted.items() if count}


# /models.


async def test_models_tells_what_is_served_and_how(serve):
    client = await serve(server=SERVER, batching={"max_batch_size": 4, "max_wait_ms": 3})
    response = await client.get("/models")
    (model,) = (await response.json())["models"]
    forward_ms = model.pop("forward_ms")
    assert model == {
        "name": "tiny",
        "version": "1",
        "state": "ready",
        "current": True,
        "task": "tensor",
        "takes": [JSON, *MSGPACK, NPY],
        "gives": [JSON, *MSGPACK, NPY],
        "precision": "fp32",
        "input": {"kind": "numbers", "dtype": "float32", "shape": [10]},
        "device": "cpu",
        "max_batch_size": 4,
        "runner": "thread",
        "batching": {
            "max_batch_size": 4,
            "max_wait_ms": 3,
            "policy": "adaptive",
            "max_queue_size": 256,
        },
    }
    assert set(forward_ms) == {"1", "2", "4"}
    assert all(milliseconds > 0 for milliseconds in forward_ms.values())


async def test_models_lists_every_version_in_the_order_of_the_config(serve):
    served = [("b", "2"), ("b", "1"), ("a", "10")]
    described = [
        {"name": name, "version": version, "source": "tests.models:Double", "device": "cpu"}
        for name, version in served
    ]
    client = await serve(Config.model_validate({"server": SERVER, "models": described}))
    models = (await (await client.get("/models")).json())["models"]
    assert [(model["name"], model["version"]) for model in models] == served


async def test_models_tells_who_is_draining(serve):
    client = await serve(**DOUBLE)
    client.app[REPOSITORY].drain()
    (model,) = (await (await client.get("/models")).json())["models"]
    assert model["name"] == "tiny"
    assert model["state"] == "draining"


# /metrics.


async def test_every_metric_of_the_contract_is_there_from_the_start(serve):
    client = await serve(**DOUBLE)
    families = await scrape(client)
    assert {family.name: family.type for family in families} == CONTRACT
    assert all(family.documentation for family in families)


async def try_out(client: Client) -> None:
    """Let version 2 fail on a request of its share, and then answer a copy."""
    repository, shadow = client.app[REPOSITORY], client.app[SHADOW]
    shadow._quiet_s = 0.0
    repository.candidates = {"tiny": Candidate(version="2", share=1)}
    passes = repository.find("tiny", "2").batcher.passes
    passes.runner, before = FakeRunner(rows=lambda _: []), passes.runner
    await client.post("/predict", json={"input": [1]})
    passes.runner = before
    repository.candidates = {"tiny": Candidate(version="2", shadow=True)}
    await client.post("/predict", json={"input": [1]})
    await until(lambda: shadow._timer is None and shadow._running is None)
    repository.candidates = {}


async def test_metrics_have_the_labels_of_the_contract(serve, configure):
    batching = {"max_batch_size": 1, "max_queue_size": 1}
    config = configure(
        server=SERVER, source="tests.models:FailsOnNegative", batching=batching, slo_ms=10_000
    )
    endpoint = EndpointConfig(path="/never-fails", model="tiny", default_output=0)
    (model,) = config.models
    candidate = model.model_copy(update={"version": "2", "source": "tests.models:Double"})
    models = [model, candidate]
    client = await serve(config.model_copy(update={"endpoints": [endpoint], "models": models}))
    await try_out(client)
    for number in (1, -1):
        await client.post("/predict", json={"input": [number]})
        await client.post("/never-fails", json={"input": [number]})
    # A second one, so that there is something rejected.
    runner = gate(client)
    await client.post("/predict", json={"input": [1]}, headers={"X-Request-Timeout-Ms": "20"})
    runner.release()
    for family in await scrape(client):
        labels = [set(sample.labels) - {"le"} for sample in family.samples]
        assert labels, family.name
        assert all(
            found
            == LABELS.get(family.name, set())
            | (set() if family.name == "batchserve_workers" else {"model", "version"})
            for found in labels
        ), family.name


async def test_known_traffic_is_counted(serve):
    batching = {"max_batch_size": 4, "max_wait_ms": AGES_MS}
    client = await serve(**DOUBLE, batching=batching)
    bodies: list[Any] = [
        {"input": [1]},
        {"input": [1, 2]},
        {"input": [3]},
        {"inputs": [[1]] * 9},
        {"input": "text"},
        {"input": "text"},
        {"wrong": 1},
    ]
    statuses = [(await client.post("/predict", json=body)).status for body in bodies]
    assert statuses == [200, 200, 200, 200, 422, 422, 400]

    assert await by(client, "batchserve_requests_total") == {"200": 4, "422": 2, "400": 1}
    assert await value(client, "batchserve_request_seconds_count") == 7
    assert await value(client, "batchserve_request_seconds_sum") > 0
    assert await value(client, "batchserve_items_total") == 12
    assert await value(client, "batchserve_decode_seconds_count") == 4
    assert await value(client, "batchserve_queue_seconds_count") == 12
    assert await value(client, "batchserve_forward_seconds_count") == 6
    assert await value(client, "batchserve_forward_seconds_sum") > 0
    assert await value(client, "batchserve_batch_size_count") == 6
    assert await value(client, "batchserve_batch_size_sum") == 12
    buckets = await by(client, "batchserve_batch_size_bucket")
    assert (buckets["1.0"], buckets["2.0"], buckets["4.0"], buckets["+Inf"]) == (4, 4, 6, 6)
    assert await by(client, "batchserve_batches_total") == {"idle": 4, "full": 2}
    assert await by(client, "batchserve_rejected_total") == {}


async def test_traffic_is_counted_for_the_version_that_answered(serve):
    described = [
        {"name": "tiny", "version": version, "source": "tests.models:Double", "device": "cpu"}
        for version in ("1", "2")
    ]
    client = await serve(Config.model_validate({"server": SERVER, "models": described}))
    for path in ("/predict", "/models/tiny/predict", "/models/tiny/versions/2/predict"):
        assert (await client.post(path, json={"input": [1]})).status == 200
    requests = await values(client, "batchserve_requests_total", model="tiny", code="200")
    items = await values(client, "batchserve_items_total", model="tiny")
    assert requests == items == {"1": 2, "2": 1}


# Why batches were closed.


@pytest.mark.parametrize(
    ("batching", "count", "reasons"),
    [
        ({"max_batch_size": 4, "max_wait_ms": AGES_MS}, 1, {"idle": 1}),
        ({"max_batch_size": 4, "max_wait_ms": AGES_MS}, 4, {"full": 1}),
        ({"max_batch_size": 4, "max_wait_ms": AGES_MS}, 6, {"full": 1, "idle": 1}),
        ({"max_batch_size": 4, "max_wait_ms": 1, "policy": "fixed"}, 3, {"wait": 1}),
        ({"max_batch_size": 2, "max_wait_ms": 1, "policy": "fixed"}, 3, {"full": 1, "wait": 1}),
    ],
)
async def test_why_batches_were_closed(serve, batching, count, reasons):
    client = await serve(**DOUBLE, batching=batching)
    response = await client.post("/predict", json={"inputs": [[1]] * count})
    assert response.status == 200
    assert await by(client, "batchserve_batches_total") == reasons


async def test_draining_closes_a_batch(serve):
    batching = {"max_batch_size": 4, "max_wait_ms": AGES_MS, "policy": "fixed"}
    client = await serve(**DOUBLE, batching=batching)
    waiting = asyncio.create_task(client.post("/predict", json={"input": [1]}))
    await until(lambda: batcher_of(client).queued)
    client.app[REPOSITORY].drain()
    assert (await waiting).status == 200
    assert await by(client, "batchserve_batches_total") == {"drain": 1}


async def test_a_failed_forward_pass_is_counted_as_one(serve):
    client = await serve(source="tests.models:FailsOnNegative", server=SERVER)
    assert (await client.post("/predict", json={"input": [-1]})).status == 500
    assert await by(client, "batchserve_requests_total") == {"500": 1}
    assert await value(client, "batchserve_batch_size_count") == 1
    assert await by(client, "batchserve_faults_total") == {"input": 1}


# What was rejected.


async def test_a_full_queue_is_counted(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1, "max_queue_size": 1})
    runner = gate(client)
    waiting = [asyncio.create_task(client.post("/predict", json={"input": [1]}))]
    await runner.wait_started()
    waiting.append(asyncio.create_task(client.post("/predict", json={"input": [2]})))
    await until(lambda: batcher_of(client).queued)
    for _ in range(3):
        assert (await client.post("/predict", json={"input": [3]})).status == 503
    assert await by(client, "batchserve_rejected_total") == {"queue_full": 3}
    runner.release()
    runner.release()
    assert {response.status for response in await asyncio.gather(*waiting)} == {200}
    assert await by(client, "batchserve_requests_total") == {"200": 2, "503": 3}


async def test_a_passed_deadline_is_counted(serve):
    client = await serve(**DOUBLE)
    runner = gate(client)
    headers = {"X-Request-Timeout-Ms": "20"}
    assert (await client.post("/predict", json={"input": [1]}, headers=headers)).status == 504
    assert await by(client, "batchserve_rejected_total") == {"deadline_exceeded": 1}
    assert await by(client, "batchserve_requests_total") == {"504": 1}
    runner.release()


async def test_draining_is_counted(serve):
    client = await serve(**DOUBLE)
    client.app[REPOSITORY].drain()
    assert (await client.post("/predict", json={"input": [1]})).status == 503
    assert await by(client, "batchserve_requests_total") == {"503": 1}
    assert await by(client, "batchserve_rejected_total") == {"draining": 1}


async def test_a_model_that_is_not_ready_is_counted(serve):
    client = await serve(**DOUBLE)
    loop = batcher_of(client)._loop
    assert loop is not None
    loop.cancel()
    await asyncio.wait([loop])
    assert (await client.post("/predict", json={"input": [1]})).status == 503
    assert await by(client, "batchserve_requests_total") == {"503": 1}
    assert await by(client, "batchserve_rejected_total") == {"model_not_ready": 1}


async def test_what_clients_do_wrong_is_not_rejected(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1, "max_queue_size": 1})
    for body in ({"input": "text"}, {"wrong": 1}, {"inputs": [[1], [2]]}):
        await client.post("/predict", json=body)
    assert await by(client, "batchserve_requests_total") == {"422": 1, "400": 1, "413": 1}
    assert await by(client, "batchserve_rejected_total") == {}


# Gauges.


async def test_the_gauges_follow_the_queue(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 2})
    runner = gate(client)
    inputs = {"inputs": [[1]] * 5}
    request = asyncio.create_task(client.post("/predict", json=inputs))
    await runner.wait_started()
    gauges = ["batchserve_queue_items", "batchserve_in_flight_items"]

    async def settle_at(*wanted: float) -> None:
        # They are sampled, a moment later.
        while [await value(client, gauge) for gauge in gauges] != list(wanted):
            pass

    await settle_at(3, 2)
    for _ in range(3):
        runner.release()
    assert (await request).status == 200
    await settle_at(0, 0)


# Labels are bounded.


async def test_what_is_not_there_adds_no_labels(serve):
    # Always closed for the same reason.
    batching = {"max_batch_size": 4, "max_wait_ms": 0, "policy": "fixed"}
    client = await serve(**DOUBLE, batching=batching)
    assert (await client.post("/predict", json={"input": [1]})).status == 200

    async def labels() -> set[tuple[tuple[str, str], ...]]:
        return {
            tuple(sorted(sample.labels.items()))
            for family in await scrape(client)
            for sample in family.samples
        }

    before = await labels()
    for i in range(5):
        for path in (f"/path/{i}", f"/models/{i}/predict", f"/models/tiny/versions/{i}{i}/predict"):
            assert (await client.post(path, json={"input": [1]})).status == 404
        assert (await client.request("PURGE", "/predict")).status == 405
        headers = {"X-Request-Id": f"id-{i}"}
        assert (await client.post("/predict", json={"input": [1]}, headers=headers)).status == 200
    assert await labels() == before


async def test_health_and_operations_are_not_counted_as_requests(serve):
    client = await serve(**DOUBLE)
    for path in ("/livez", "/readyz", "/models", "/metrics", "/openapi.json", "/docs", "/"):
        await client.get(path)
    assert await by(client, "batchserve_requests_total") == {}


async def test_the_last_requests_of_a_worker_are_counted_before_it_ends(serve, blockbuster):
    blockbuster.deactivate()
    client = await serve(**DOUBLE)
    assert (await client.post("/predict", json={"input": [1.0]})).status == 200
    metrics = client.app[METRICS]
    assert metrics._answered
    await client.close()
    # What other workers find after this one is gone.
    assert not metrics._answered
    assert not metrics._computed

"""A version that is tried: its share of the requests, and what they get if it does not answer."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from batchserve.batching.batcher import Batcher
from batchserve.config import Config
from batchserve.repository import ModelVersion
from batchserve.testing import FakeRunner, GatedRunner
from batchserve.web.keys import REPOSITORY
from tests.web.clients import Client, until
from tests.web.test_body import form, picture
from tests.web.test_operations import values

SERVER = {"torch_threads": 1}
COMMON: dict[str, Any] = {"name": "tiny", "device": "cpu", "batching": {"max_batch_size": 2}}
DOUBLE = {**COMMON, "version": "1", "source": "tests.models:Double"}
TRIPLE = {**COMMON, "version": "2", "source": f"{__name__}:Triple"}
IMAGE = {
    "source": "tests.models:MeanColour",
    "task": "image-classification",
    "image": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8},
    "labels": ["red", "green", "blue"],
}
ONE = {"input": [1.0]}


class Triple(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return 3 * batch


@pytest.fixture
def trying(serve):
    """Return a function that serves `Double`, and beside it `Triple`, changed as asked."""

    async def start(
        share: float = 1.0, server: dict[str, Any] | None = None, **changes: Any
    ) -> Client:
        candidate = {**TRIPLE, "candidate": {"share": share}, **changes.pop("second", {})}
        models = [{**DOUBLE, **changes.pop("first", {})}, candidate]
        described = {"server": {**SERVER, **(server or {})}, "models": models, **changes}
        client: Client = await serve(Config.model_validate(described))
        return client

    return start


def version_of(client: Client, number: str) -> ModelVersion:
    found: ModelVersion = client.app[REPOSITORY].find("tiny", number)
    return found


def candidate_of(client: Client) -> Batcher:
    return version_of(client, "2").batcher


async def answer(client: Client, path: str = "/predict", **asked: Any) -> tuple[str, Any]:
    response = await client.post(path, **(asked or {"json": ONE}))
    body = await response.json()
    assert response.status == 200, body
    return body["version"], body["output"]


async def fallbacks(client: Client) -> dict[str, float]:
    return await values(client, "batchserve_canary_fallbacks_total", model="tiny", version="2")


# Who gets which.


async def test_without_a_share_nobody_gets_the_candidate(trying):
    client = await trying(share=0)
    for _ in range(20):
        assert await answer(client) == ("1", [2.0])


async def test_with_all_of_it_everybody_does_who_names_no_version(trying):
    client = await trying()
    for path in ("/predict", "/models/tiny/predict"):
        assert await answer(client, path) == ("2", [3.0])
    for version, output in (("1", [2.0]), ("2", [3.0])):
        path = f"/models/tiny/versions/{version}/predict"
        assert await answer(client, path) == (version, output)
    assert await values(client, "batchserve_requests_total", model="tiny", code="200") == {
        "1": 1.0,
        "2": 3.0,
    }


async def test_a_share_goes_by_the_requests_id(trying):
    client = await trying(share=0.5)
    trial = client.app[REPOSITORY].trial(version_of(client, "1"))
    got = {}
    for number in range(60):
        headers = {"X-Request-Id": f"id-{number}"}
        got[number], _ = await answer(client, json=ONE, headers=headers)
        assert (got[number] == "2") is trial.takes(f"id-{number}")
    assert 15 < sum(version == "2" for version in got.values()) < 45
    again, _ = await answer(client, json=ONE, headers={"X-Request-Id": "id-7"})
    assert again == got[7]


async def test_every_protocol_and_endpoint_is_part_of_it_and_names_who_answered(trying):
    client = await trying(endpoints=[{"path": "/mine", "model": "tiny"}])
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    response = await client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    body = await response.json()
    assert (body["model_version"], body["outputs"][0]["data"]) == ("2", [3.0])
    response = await client.post("/v1/models/tiny:predict", json={"instances": [[1.0]]})
    assert await response.json() == {"predictions": [[3.0]]}
    response = await client.post("/predictions/tiny", json={"data": [1.0]})
    assert await response.json() == [3.0]
    assert await answer(client, "/mine") == ("2", [3.0])
    named = await client.post("/v2/models/tiny/versions/1/infer", json={"inputs": [tensor]})
    assert (await named.json())["outputs"][0]["data"] == [2.0]


async def test_an_answer_is_encoded_as_the_version_says_that_gave_it(trying):
    client = await trying(
        first=IMAGE,
        second={**IMAGE, "labels": ["rouge", "vert", "bleu"]},
    )
    version, output = await answer(client, "/predict?top_k=1", data=form(picture("r")))
    assert (version, output[0]["label"]) == ("2", "rouge")


# If the candidate does not answer.


async def test_where_the_candidate_fails_the_current_version_answers(trying):
    client = await trying()
    candidate_of(client).passes.runner = FakeRunner(rows=fail)
    assert await answer(client) == ("1", [2.0])
    assert await fallbacks(client) == {"model_failed": 1.0}
    counted = await values(client, "batchserve_requests_total", model="tiny", code="200")
    assert counted == {"1": 1.0}


async def test_a_form_that_was_read_for_the_candidate_is_not_read_again(trying):
    client = await trying(first=IMAGE, second=IMAGE)
    candidate_of(client).passes.runner = FakeRunner(rows=fail)
    version, output = await answer(client, "/predict?top_k=1", data=form(picture("r")))
    assert (version, output[0]["label"]) == ("1", "red")


def fail(_: Any) -> Any:
    raise ValueError("no such luck")


async def test_where_it_is_full_the_current_version_answers(trying):
    client = await trying(second={"batching": {"max_batch_size": 1, "max_queue_size": 1}})
    runner = candidate_of(client).passes.runner = GatedRunner()
    waiting = [asyncio.create_task(answer(client))]
    await runner.wait_started()
    waiting.append(asyncio.create_task(answer(client)))
    await until(lambda: candidate_of(client).queued == 1)
    assert await answer(client) == ("1", [2.0])
    assert await fallbacks(client) == {"queue_full": 1.0}
    # What is more than its queue, although there is room for one.
    runner.release()
    runner.release()
    assert [version for version, _ in await asyncio.gather(*waiting)] == ["2", "2"]
    response = await client.post("/predict", json={"inputs": [[1.0], [2.0]]})
    assert (await response.json())["version"] == "1"


async def test_what_is_too_slow_for_half_of_the_time_is_left_to_the_current_version(trying):
    client = await trying(server={"default_timeout_ms": 400})
    runner = candidate_of(client).passes.runner = GatedRunner()
    assert await answer(client) == ("1", [2.0])
    assert await fallbacks(client) == {"deadline_exceeded": 1.0}
    runner.release()


async def test_where_it_is_not_ready_the_current_version_answers(trying):
    client = await trying()
    version_of(client, "2").drain()
    assert await answer(client) == ("1", [2.0])
    candidate_of(client).lost = "the test says so"
    assert await answer(client) == ("1", [2.0])


async def test_where_its_task_raises_what_it_should_not_the_current_version_answers(
    trying, caplog, monkeypatch
):
    client = await trying()
    monkeypatch.setattr(version_of(client, "2").task, "decode", fail)
    assert await answer(client) == ("1", [2.0])
    assert await fallbacks(client) == {"internal_error": 1.0}
    assert "tiny:2, a candidate, failed, and another version answers" in caplog.text


async def test_input_that_only_the_candidate_refuses_is_answered(trying):
    client = await trying(second={"input_shape": [7]})
    assert await answer(client) == ("1", [2.0])
    assert await fallbacks(client) == {"invalid_input": 1.0}


async def test_mistakes_of_clients_are_theirs(trying):
    client = await trying()
    response = await client.post("/predict", json={"inputs": 7})
    assert response.status == 400
    response = await client.post("/predict", json={"input": ["x"]})
    assert response.status in (400, 422)
    assert await fallbacks(client) == {}


async def test_whoever_hangs_up_is_computed_by_nobody(trying):
    client = await trying()
    runner = candidate_of(client).passes.runner = GatedRunner()
    first = asyncio.create_task(client.post("/predict", json=ONE))
    await runner.wait_started()
    second = asyncio.create_task(client.post("/predict", json=ONE))
    await until(lambda: candidate_of(client).queued == 1)
    second.cancel()
    await until(lambda: candidate_of(client).queued == 0)
    runner.release()
    assert (await (await first).json())["version"] == "2"
    assert len(runner.batches) == 1
    assert np.ravel(runner.batches[0][0]).tolist() == [1.0]

"""Copies of requests, which a candidate answers for nobody: nobody notices, and all is compared."""

import asyncio
from typing import Any

import pytest
import torch
from torch import nn

from batchserve.batching.batcher import Batcher
from batchserve.config import Config
from batchserve.testing import FakeRunner, GatedRunner
from batchserve.web.keys import REPOSITORY, SHADOW
from tests.web.clients import Client, until
from tests.web.test_operations import values

COMMON: dict[str, Any] = {"name": "tiny", "device": "cpu", "batching": {"max_batch_size": 2}}
OF = {"model": "tiny", "version": "2", "current": "1"}


class Minus(nn.Module):
    """Turns the order of the numbers round."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return -batch


class Longer(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([batch, batch], dim=1)


@pytest.fixture
def shadowed(serve):
    """Return a function that serves `Double`, and a candidate that gets copies."""

    async def start(source: str = "tests.models:Double", share: float = 0.0) -> Client:
        models = [
            {**COMMON, "version": "1", "source": "tests.models:Double"},
            {
                **COMMON,
                "version": "2",
                "source": source,
                "candidate": {"share": share, "shadow": True},
            },
        ]
        client: Client = await serve(
            Config.model_validate({"server": {"torch_threads": 1}, "models": models})
        )
        client.app[SHADOW]._quiet_s = 0.0
        return client

    return start


def batcher_of(client: Client, version: str) -> Batcher:
    batcher: Batcher = client.app[REPOSITORY].find("tiny", version).batcher
    return batcher


def replaced(client: Client, version: str, runner: FakeRunner) -> Any:
    batcher_of(client, version).passes.runner = runner
    return runner


async def ask(client: Client, *inputs: Any, path: str = "/predict") -> None:
    response = await client.post(path, json={"inputs": list(inputs)})
    body = await response.json()
    assert response.status == 200, body
    assert body["outputs"] == [[2 * number for number in numbers] for numbers in inputs]


async def over(client: Client) -> None:
    """Return when no copy is waiting or being computed."""
    shadow = client.app[SHADOW]
    await until(lambda: shadow._timer is None and shadow._running is None)


async def outcomes(client: Client) -> dict[str, float]:
    return await values(client, "batchserve_shadow_requests_total", **OF)


async def record(client: Client) -> dict[str, Any]:
    shown: dict[str, Any] = (await (await client.get("/models/tiny")).json())["candidate"]
    return shown


async def test_two_that_are_equal_are_found_equal(shadowed):
    client = await shadowed()
    for numbers in ([1.0, 3.0, 2.0], [0.0, -1.0, 5.0]):
        await ask(client, numbers)
        await over(client)
    assert await outcomes(client) == {"compared": 2.0}
    shown = await record(client)
    assert (shown["version"], shown["share"], shown["shadow"]) == ("2", 0.0, True)
    found = shown["comparison"]
    took_ms = found.pop("forward_ms")
    assert found == {
        "compared": 2,
        "unlike": 0,
        "failed": {},
        "agreement": 1.0,
        "mean_difference": 0.0,
        "max_difference": 0.0,
    }
    assert min(took_ms["current"], took_ms["candidate"]) >= 0


async def test_what_differs_is_told_by_how_much_and_whether_it_changes_the_first_place(shadowed):
    client = await shadowed(f"{__name__}:Minus")
    await ask(client, [1.0, 3.0], [-1.0, -1.5])
    await over(client)
    found = (await record(client))["comparison"]
    # Twice a number, and that number with the other sign.
    assert (found["max_difference"], found["mean_difference"]) == (9.0, (9.0 + 4.5) / 2)
    assert (found["compared"], found["agreement"]) == (2, 0.0)
    await ask(client, [1.0, 1.0])
    await over(client)
    found = (await record(client))["comparison"]
    assert (found["max_difference"], found["agreement"]) == (9.0, 1 / 3)


async def test_rows_of_another_shape_are_unlike(shadowed):
    client = await shadowed(f"{__name__}:Longer")
    await ask(client, [1.0, 2.0])
    await over(client)
    found = (await record(client))["comparison"]
    assert (found["compared"], found["unlike"], found["failed"]) == (0, 1, {})
    assert (found["max_difference"], found["agreement"]) == (None, None)


async def test_of_a_request_with_many_inputs_one_batch_is_copied(shadowed):
    client = await shadowed()
    runner = replaced(client, "2", FakeRunner())
    await ask(client, [1.0], [2.0], [3.0])
    await over(client)
    assert [len(batch) for batch in runner.batches] == [2]
    assert (await record(client))["comparison"]["compared"] == 2


async def test_copies_are_nobodys_requests(shadowed):
    client = await shadowed()
    await ask(client, [1.0])
    await over(client)
    assert await values(client, "batchserve_requests_total", model="tiny") == {"200,1": 1.0}
    statistics = await (await client.get("/v2/models/tiny/versions/2/stats")).json()
    (found,) = statistics["model_stats"]
    assert (found["inference_count"], found["execution_count"]) == (0, 1)
    canary = (await record(client))["canary"]
    assert (canary["current"]["requests"], canary["candidate"]["requests"]) == (1, 0)


async def test_who_names_a_version_is_not_copied(shadowed):
    client = await shadowed()
    runner = replaced(client, "2", FakeRunner())
    await ask(client, [1.0], path="/models/tiny/versions/1/predict")
    await over(client)
    assert runner.batches == []


async def test_what_the_candidate_has_answered_is_not_copied_to_it(shadowed):
    client = await shadowed(share=1.0)
    runner = replaced(client, "2", FakeRunner())
    await client.post("/predict", json={"input": [1.0]})
    await over(client)
    assert len(runner.batches) == 1


async def test_while_there_is_anything_to_compute_nothing_is_copied(shadowed):
    client = await shadowed()
    current, candidate = replaced(client, "1", GatedRunner()), replaced(client, "2", FakeRunner())
    asking = [asyncio.create_task(client.post("/predict", json={"input": [1.0]}))]
    await current.wait_started()
    asking.append(asyncio.create_task(client.post("/predict", json={"input": [2.0]})))
    await until(lambda: batcher_of(client, "1").queued == 1)
    current.release()
    await asking[0]
    await over(client)
    assert candidate.batches == []
    current.release()
    await asking[1]
    await over(client)
    # When all are answered, there is time for one.
    assert [batch[0].tolist() for batch in candidate.batches] == [[2.0]]


async def test_while_a_copy_is_computed_no_other_is_and_clients_are_answered(shadowed):
    client = await shadowed()
    candidate = replaced(client, "2", GatedRunner())
    await ask(client, [1.0])
    await candidate.wait_started()
    for number in (2.0, 3.0, 4.0):
        await ask(client, [number])
    assert batcher_of(client, "2").queued == 0
    candidate.release()
    await over(client)
    assert [batch[0].tolist() for batch in candidate.batches] == [[1.0]]


async def test_a_candidate_that_fails_is_counted_and_nobody_notices(shadowed, monkeypatch, caplog):
    client = await shadowed()

    def fail(_: Any) -> Any:
        raise ValueError("no such luck")

    runner = replaced(client, "2", FakeRunner(rows=fail))
    await ask(client, [1.0])
    await over(client)
    replaced(client, "2", FakeRunner())
    monkeypatch.setattr(client.app[REPOSITORY].find("tiny", "2").task, "decode", fail)
    await ask(client, [2.0])
    await over(client)
    assert len(runner.batches) == 1
    assert (await record(client))["comparison"]["failed"] == {
        "internal_error": 1,
        "model_failed": 1,
    }
    assert "tiny:2, a candidate, failed on the copy of a request" in caplog.text


async def test_a_shutdown_waits_for_no_copy(shadowed):
    client = await shadowed()
    candidate = replaced(client, "2", GatedRunner())
    await ask(client, [1.0])
    await candidate.wait_started()
    await client.close()
    assert candidate.batches == []


async def test_a_candidate_that_leaves_gets_no_copy(shadowed):
    client = await shadowed()
    runner = replaced(client, "2", FakeRunner())
    client.app[SHADOW]._quiet_s = 1000.0
    await ask(client, [1.0])
    client.app[REPOSITORY].find("tiny", "2").drain()
    client.app[SHADOW]._timer.cancel()
    client.app[SHADOW]._quiet_s = 0.0
    client.app[SHADOW]._look()
    await over(client)
    assert runner.batches == []

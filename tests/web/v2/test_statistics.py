"""The statistics, as requests of all protocols make them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchserve.config import Config
from batchserve.metrics import MULTIPROC_DIR
from tests.web.clients import Client
from tests.web.v2.bodies import binary

MODELS = Config.model_validate(
    {
        "server": {"torch_threads": 1},
        "models": [
            {"name": "m", "version": "2", "source": "tests.models:Double", "device": "cpu"},
            {"name": "m", "version": "1", "source": "tests.models:Double", "device": "cpu"},
            {"name": "fails", "source": "tests.models:FailsOnNegative", "device": "cpu"},
        ],
    }
)
X = np.array([[1], [2], [3]], np.float32)


async def stats(client: Client, path: str = "") -> list[dict[str, Any]]:
    response = await client.get(f"/v2/models{path}/stats")
    assert response.status == 200
    found: list[dict[str, Any]] = (await response.json())["model_stats"]
    return found


async def infer(client: Client, path: str, x: Any) -> int:
    response = await client.post(f"/v2/models/{path}/infer", **binary({"input": x}))
    return response.status


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        ("", ["m:2", "m:1", "fails:1"]),
        ("/m", ["m:2", "m:1"]),
        ("/m/versions/1", ["m:1"]),
        ("/fails", ["fails:1"]),
    ],
)
async def test_of_all_models_of_one_or_of_one_version(serve, path, versions):
    client = await serve(MODELS)
    assert [f"{each['name']}:{each['version']}" for each in await stats(client, path)] == versions


async def test_what_was_asked_and_computed(serve):
    client = await serve(MODELS)
    assert await infer(client, "m", X) == 200
    assert (await client.post("/predict", json={"input": [1.0]})).status == 200
    (second, first) = await stats(client, "/m")
    assert second["inference_count"] == 4
    assert second["execution_count"] == 2
    assert second["last_inference"] > 1_700_000_000_000
    spent = second["inference_stats"]
    assert {stage: duration["count"] for stage, duration in spent.items()} == {
        "success": 2,
        "fail": 0,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
    }
    parts = sum(duration["ns"] for duration in spent.values()) - spent["success"]["ns"]
    assert 0 < parts <= spent["success"]["ns"]
    sizes = {each["batch_size"]: each["compute_infer"]["count"] for each in second["batch_stats"]}
    assert sizes == {1: 1, 3: 1}
    assert first["inference_count"] == first["last_inference"] == 0


async def test_what_failed(serve):
    client = await serve(MODELS)
    assert await infer(client, "fails", np.array([["text"]], dtype="S4").astype(object)) == 422
    assert await infer(client, "fails", -X[:1]) == 500
    (of_one,) = await stats(client, "/fails")
    assert of_one["inference_stats"]["fail"]["count"] == 2
    assert of_one["inference_stats"]["success"]["count"] == 0
    assert of_one["inference_count"] == of_one["execution_count"] == 0


async def test_asking_about_a_model_is_not_asking_it(serve):
    client = await serve(MODELS)
    for path in ("", "/ready", "/config", "/stats"):
        await client.get(f"/v2/models/m{path}")
    assert (await stats(client, "/m"))[0]["inference_stats"]["fail"]["count"] == 0


async def test_of_all_workers(serve, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(MULTIPROC_DIR, str(tmp_path))
    one, other = await serve(MODELS), await serve(MODELS)
    counts = []
    for client in (one, other, one):
        assert await infer(client, "m", X) == 200
        counts.append((await stats(client, "/m"))[0]["inference_count"])
    assert counts == [3, 6, 9]


async def test_a_worker_that_ends_leaves_its_counts(serve, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(MULTIPROC_DIR, str(tmp_path))
    old = await serve(MODELS)
    assert await infer(old, "m", X) == 200
    await old.close()
    new = await serve(MODELS)
    assert (await stats(new, "/m"))[0]["inference_count"] == 3

"""Administration over HTTP, in one worker: what it answers, and what requests get meanwhile."""

import asyncio
import gc
import io
import logging
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from batchserve.config import Config
from batchserve.loading import load_module
from batchserve.repository import ModelVersion, State
from batchserve.repository import version as versions
from batchserve.repository.warming import warm
from batchserve.web.keys import FOLLOWER, REPOSITORY
from tests.web.clients import Client, gate, until

TOKEN = "correct-horse-battery"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
SERVER = {"admin_token": TOKEN, "torch_threads": 1}
DOUBLE = {"source": "tests.models:Double", "input_shape": [1]}
VERSION = "/admin/models/tiny/versions/{}"


class Triple(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return 3 * batch


@pytest.fixture
def administered(serve, tmp_path):
    """Return a function that serves two classes, of which `Double` is loaded as tiny:1."""

    async def start(server: dict[str, Any] | None = None) -> Client:
        common = {"device": "cpu", "input_shape": [1], "batching": {"max_batch_size": 2}}
        models = [
            {"name": "tiny", "source": "tests.models:Double", **common},
            {"name": "other", "source": f"{__name__}:Triple", **common},
        ]
        config = Config.model_validate(
            {"server": {**SERVER, **(server or {})}, "models": models},
            context={"folder": tmp_path},
        )
        client: Client = await serve(config)
        return client

    return start


async def put(client: Client, version: str, query: str = "", **section: Any) -> Any:
    section = {"source": f"{__name__}:Triple", "input_shape": [1], **section}
    return await client.put(VERSION.format(version) + query, json=section, headers=AUTH)


async def answers(client: Client, path: str = "/models/tiny/predict") -> tuple[str, float]:
    response = await client.post(path, json={"input": [1.0]})
    body = await response.json()
    assert response.status == 200, body
    return body["version"], body["output"][0]


async def test_a_version_is_loaded_beside_the_current_one(administered):
    client = await administered()
    response = await put(client, "2")
    assert response.status == 200
    body = await response.json()
    (worker,) = body.pop("workers")
    assert body == {
        "done": True,
        "model": "tiny",
        "version": "2",
        "current": "1",
        "upcoming": None,
        "candidate": None,
    }
    assert worker["versions"] == {"1": "ready", "2": "ready"}
    assert await answers(client) == ("1", 2.0)
    assert await answers(client, "/models/tiny/versions/2/predict") == ("2", 3.0)


async def test_it_is_made_current_and_rolled_back(administered):
    client = await administered()
    assert (await put(client, "2", "?current=true")).status == 200
    assert await answers(client) == ("2", 3.0)
    # The first model of the config, too.
    assert await answers(client, "/predict") == ("2", 3.0)
    response = await client.post("/admin/models/tiny/rollback", headers=AUTH)
    assert (response.status, (await response.json())["current"]) == (200, "1")
    assert await answers(client) == ("1", 2.0)
    response = await client.put("/admin/models/tiny/current", json={"version": "2"}, headers=AUTH)
    assert (response.status, (await response.json())["current"]) == (200, "2")
    assert await answers(client) == ("2", 3.0)
    shown = await (await client.get("/models/tiny")).json()
    assert (shown["current"], shown["earlier"], shown["upcoming"]) == ("2", ["1"], None)


async def test_a_new_model_is_served_under_its_name(administered):
    client = await administered()
    path = "/admin/models/new/versions/7"
    section = {**DOUBLE, "device": "cpu"}
    assert (await client.put(path, json=section, headers=AUTH)).status == 200
    assert await answers(client, "/models/new/predict") == ("7", 2.0)
    assert (await client.delete(path, headers=AUTH)).status == 200
    assert (await client.post("/models/new/predict", json={"input": [1.0]})).status == 404


async def test_what_is_unloaded_is_gone_and_comes_back_without_a_body(administered):
    client = await administered()
    await put(client, "2", "?current=true")
    response = await client.delete(VERSION.format("1"), headers=AUTH)
    assert (response.status, (await response.json())["workers"][0]["versions"]) == (
        200,
        {"2": "ready"},
    )
    gone = await client.post("/models/tiny/versions/1/predict", json={"input": [1.0]})
    assert gone.status == 404
    assert "it has 2" in (await gone.json())["error"]
    assert (await client.put(VERSION.format("1"), headers=AUTH)).status == 200
    assert await answers(client, "/models/tiny/versions/1/predict") == ("1", 2.0)


async def test_a_version_that_cannot_be_loaded_is_an_error_and_harms_nobody(administered):
    client = await administered()
    response = await put(client, "2", "?current=true", input_shape=[0x7FFFFFFF, 0x7FFFFFFF])
    assert response.status == 422
    body = await response.json()
    assert body["code"] == "load_failed"
    assert "tiny:2 could not be loaded, and is taken back: model tiny: " in body["error"]
    assert await answers(client) == ("1", 2.0)
    (failed,) = [
        model
        for model in (await (await client.get("/models")).json())["models"]
        if model["state"] == "failed"
    ]
    assert (failed["name"], failed["version"], failed["current"]) == ("tiny", "2", False)
    assert (await client.get("/readyz")).status == 200
    # It is forgotten on demand.
    assert (await client.delete(VERSION.format("2"), headers=AUTH)).status == 200
    assert "failed" not in await (await client.get("/models")).text()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "message"),
    [
        ("DELETE", "versions/1", None, 409, "conflict", "make another version of it current"),
        ("DELETE", "versions/9", None, 404, "not_found", "has no version '9'; it has 1, 2"),
        ("PUT", "versions/9", None, 404, "not_found", "send its section as the body"),
        ("PUT", "versions/-9", {"source": "torchvision:resnet18"}, 422, "invalid_input", "version"),
        ("PUT", "versions/9", {}, 422, "invalid_input", "source: is missing"),
        ("PUT", "versions/9", {**DOUBLE, "polcy": 1}, 422, "invalid_input", "polcy: unknown key"),
        ("PUT", "versions/9", {**DOUBLE, "version": "8"}, 422, "invalid_input", "path says '9'"),
        ("PUT", "versions/9", [], 400, "bad_request", "must be a JSON object, not list"),
        ("PUT", "versions/9?curent=true", DOUBLE, 400, "bad_request", "known are: current"),
        ("PUT", "versions/9?current=1", DOUBLE, 400, "bad_request", "neither true nor false"),
        ("PUT", "versions/9?timeout=-1", DOUBLE, 400, "bad_request", "seconds from 0 to 600"),
        ("PUT", "versions/9?timeout=nan", DOUBLE, 400, "bad_request", "seconds from 0 to 600"),
        ("PUT", "current", {"version": "9"}, 404, "not_found", "has no version '9'"),
        ("PUT", "current", {"version": 2}, 400, "bad_request", 'must be {"version": "2"}'),
        ("PUT", "current", None, 400, "bad_request", 'must be {"version": "2"}'),
        ("POST", "rollback", None, 409, "conflict", "no earlier version to go back to"),
        ("PUT", "candidate", {"version": "9", "share": 1}, 404, "not_found", "has no version '9'"),
        ("PUT", "candidate", {"version": "1", "share": 1}, 409, "conflict", "tiny:1 is current"),
        ("PUT", "candidate", {"version": "2"}, 400, "bad_request", "state share, from 0 to 1, or"),
        ("PUT", "candidate", {"share": 1}, 400, "bad_request", "version: Field required; the body"),
        ("PUT", "candidate", None, 400, "bad_request", "version: Field required; the body is like"),
        ("PUT", "candidate", {"version": "2", "share": 2}, 400, "bad_request", "share: Input "),
        ("PUT", "candidate", {"version": "2", "share": "1"}, 400, "bad_request", "share: Input "),
        ("PUT", "candidate", {"version": 2, "share": 1}, 400, "bad_request", "version: Input "),
        ("PUT", "candidate", {"version": "2", "shadow": 1}, 400, "bad_request", "shadow: Input "),
        ("PUT", "candidate", {"version": "2", "x": 1}, 400, "bad_request", "x: Extra inputs"),
        ("PUT", "candidate?share=1", {"version": "2", "share": 1}, 400, "bad_request", "timeout"),
        ("DELETE", "candidate", None, 409, "conflict", "no candidate; PUT /admin/models/tiny/can"),
        ("POST", "promote", None, 409, "conflict", "no candidate; PUT /admin/models/tiny/can"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused_with_the_way_out(
    administered, method, path, body, status, code, message
):
    client = await administered()
    await put(client, "2")
    before = client.app[FOLLOWER].wanted
    kwargs = {} if body is None else {"json": body}
    response = await client.request(method, f"/admin/models/tiny/{path}", headers=AUTH, **kwargs)
    found = await response.json()
    assert (response.status, found["code"]) == (status, code), found
    assert message in found["error"]
    assert client.app[FOLLOWER].wanted == before


async def test_bodies_of_another_form_or_size_are_refused(administered):
    client = await administered(server={"max_body_mb": 3})
    path = VERSION.format("2")
    json = {**AUTH, "Content-Type": "application/json"}
    for headers, data, status in (
        (json, b"{", 400),
        ({**AUTH, "Content-Type": "application/yaml"}, b"source: x", 415),
        (json, io.BytesIO(b" " * (2**20 + 1)), 413),
        (json, io.BytesIO(b" " * (4 * 2**20)), 413),
        (json, b"[" * 100_000, 400),
    ):
        response = await client.put(path, data=data, headers=headers)
        assert response.status == status, await response.text()


async def test_whoever_does_not_wait_is_told_that_it_goes_on(administered):
    client = await administered()
    response = await put(client, "2", "?current=true&timeout=0")
    assert response.status == 202
    body = await response.json()
    assert (body["done"], body["current"], body["upcoming"]) == (False, "1", "2")
    follower = client.app[FOLLOWER]
    repository = client.app[REPOSITORY]
    await follower.until(lambda: repository.current("tiny") == "2" or None, 60)
    assert await answers(client) == ("2", 3.0)


async def test_the_change_that_is_overtaken_is_told_so(administered):
    client = await administered()
    await put(client, "2")
    follower = client.app[FOLLOWER]

    async def decide_nothing() -> None:
        pass

    follower._decide = decide_nothing
    path = "/admin/models/tiny/current"
    first = asyncio.create_task(client.put(path, json={"version": "2"}, headers=AUTH))
    await until(lambda: follower.wanted.upcoming)
    second = asyncio.create_task(client.put(path, json={"version": "1"}, headers=AUTH))
    response = await first
    assert response.status == 409
    assert "another change came in between" in (await response.json())["error"]
    second.cancel()


async def test_each_change_is_one_line_in_the_log(administered, caplog):
    client = await administered()
    with caplog.at_level(logging.INFO, "batchserve.administration"):
        headers = {**AUTH, "X-Request-Id": "mine-1"}
        await client.put(VERSION.format("2"), json=DOUBLE, headers=headers)
        await client.delete(VERSION.format("9%0Aforged"), headers=headers)
    lines = [r.getMessage() for r in caplog.records if r.name == "batchserve.administration"]
    who = "administration: 127.0.0.1 (request mine-1) asks to"
    assert lines[0] == f"{who} load tiny:2: done"
    assert lines[1].startswith(f"{who} unload tiny:9\\nforged: not_found: ")
    assert not any("\n" in line for line in lines)
    assert TOKEN not in caplog.text


# A candidate.


async def try_out(client: Client, **stated: Any) -> Any:
    return await client.put("/admin/models/tiny/candidate", json=stated, headers=AUTH)


async def test_a_version_is_tried_promoted_and_rolled_back(administered):
    client = await administered()
    await put(client, "2")
    response = await try_out(client, version="2", share=1)
    body = await response.json()
    assert (response.status, body["done"], body["version"], body["current"]) == (
        200,
        True,
        "2",
        "1",
    )
    assert body["candidate"] == {"version": "2", "share": 1.0, "shadow": False}
    assert await answers(client) == ("2", 3.0)
    shown = await (await client.get("/models/tiny")).json()
    assert (shown["current"], shown["candidate"]["canary"]["candidate"]["requests"]) == ("1", 1)
    listed = (await (await client.get("/models")).json())["models"]
    tried = {(one["name"], one["version"]): one.get("candidate") for one in listed}
    assert tried == {
        ("tiny", "1"): None,
        ("tiny", "2"): {"share": 1.0, "shadow": False},
        ("other", "1"): None,
    }
    response = await client.post("/admin/models/tiny/promote", headers=AUTH)
    body = await response.json()
    assert (response.status, body["current"], body["candidate"]) == (200, "2", None)
    assert await answers(client) == ("2", 3.0)
    response = await client.post("/admin/models/tiny/rollback", headers=AUTH)
    assert (await response.json())["current"] == "1"
    assert await answers(client) == ("1", 2.0)
    shown = await (await client.get("/models/tiny")).json()
    assert shown["candidate"] is None


async def test_a_version_is_tried_no_more(administered, caplog):
    client = await administered()
    await put(client, "2")
    with caplog.at_level(logging.INFO, "batchserve.administration"):
        await try_out(client, version="2", share=1)
        response = await client.delete("/admin/models/tiny/candidate", headers=AUTH)
        assert (response.status, (await response.json())["candidate"]) == (200, None)
        assert await answers(client) == ("1", 2.0)
        await try_out(client, version="2", share=1)
        assert (await client.delete(VERSION.format("2"), headers=AUTH)).status == 200
        assert await answers(client) == ("1", 2.0)
    told = [r.getMessage().partition("asks to ")[2] for r in caplog.records]
    assert [line for line in told if "try" in line] == [
        "try tiny:2, with 1 of the requests: done",
        "try nothing beside the current version of tiny: done",
        "try tiny:2, with 1 of the requests: done",
    ]


async def test_what_has_another_task_cannot_be_tried(administered):
    client = await administered()
    follower = client.app[FOLLOWER]
    await put(client, "2")
    other = client.app[REPOSITORY].find("tiny", "2")
    other.config = other.config.model_copy(update={"task": "image-classification"})
    response = await try_out(client, version="2", share=1)
    assert response.status == 409
    assert "the same requests cannot go to both" in (await response.json())["error"]
    assert follower.wanted.candidates == {}


async def test_what_is_not_ready_cannot_be_tried(administered):
    client = await administered()
    await put(client, "2")
    client.app[REPOSITORY].find("tiny", "2").fail("no such luck")
    follower = client.app[FOLLOWER]
    name = next(iter(follower.reports))
    await follower.until(lambda: "no such luck" in str(follower.reports[name]) or None, 60)
    response = await try_out(client, version="2", share=1)
    assert response.status == 409
    assert "tiny:2 is not ready: no such luck (worker " in (await response.json())["error"]


# What requests get meanwhile.


async def test_whoever_asks_a_version_that_is_unloaded_is_answered(administered):
    client = await administered()
    await put(client, "2")
    runner = gate(client)
    asking = [
        asyncio.create_task(client.post("/models/tiny/predict", json={"input": [float(i)]}))
        for i in range(3)
    ]
    await runner.wait_started()
    path = "/admin/models/tiny/current"
    await client.put(path, json={"version": "2"}, headers=AUTH)
    unloading = asyncio.create_task(client.delete(VERSION.format("1"), headers=AUTH))
    repository = client.app[REPOSITORY]
    await until(lambda: repository.retiring)
    # Who comes now finds the other one.
    assert await answers(client) == ("2", 3.0)
    assert not unloading.done()
    for _ in range(3):
        runner.release()
    for i, answer in enumerate(await asyncio.gather(*asking)):
        body = await answer.json()
        assert (answer.status, body["version"], body["output"]) == (200, "1", [float(i)])
    assert (await unloading).status == 200
    assert not repository.retiring


@pytest.mark.parametrize("runner", ["inline", "thread"])
async def test_what_is_unloaded_leaves_no_memory_behind(administered, monkeypatch, runner):
    monkeypatch.setattr("batchserve.runners.warmup.DOUBTFUL_S", 60 if runner == "inline" else 0)
    monkeypatch.setattr("batchserve.runners.warmup.LOOP_BUDGET_S", 60)
    client = await administered()
    await put(client, "2")
    version: ModelVersion = client.app[REPOSITORY].find("tiny", "2")
    assert version.batcher.runner.name == runner
    module = version._module
    assert module is not None
    await answers(client, "/models/tiny/versions/2/predict")
    left = weakref.ref(version)
    # Without the collector, which keeps the loop waiting.
    monkeypatch.delattr(versions, "give_memory_back")
    gc.disable()
    try:
        assert (await client.delete(VERSION.format("2"), headers=AUTH)).status == 200
        assert module() is None
    finally:
        gc.enable()
    del version
    gc.collect()
    assert left() is None


async def test_a_model_that_holds_itself_is_collected_too(administered, monkeypatch):
    client = await administered()
    await put(client, "2")
    module = client.app[REPOSITORY].find("tiny", "2")._module
    assert module is not None
    held = module()
    held.itself = [held]
    del held
    assert (await client.delete(VERSION.format("2"), headers=AUTH)).status == 200
    assert module() is None


async def test_the_gauges_of_a_version_that_is_gone_fall_to_nothing(administered):
    client = await administered()
    await put(client, "2")
    version = client.app[REPOSITORY].find("tiny", "2")
    version.batcher.scheduler.backlog_s = lambda _now_s: 7.0
    line = 'batchserve_backlog_seconds{model="tiny",version="2"}'

    async def shows(value: float) -> None:
        while f"{line} {value}" not in await (await client.get("/metrics")).text():
            pass

    await shows(7.0)
    await client.delete(VERSION.format("2"), headers=AUTH)
    await shows(0.0)


async def test_batches_of_a_version_that_is_gone_stay_in_the_trace(administered):
    client = await administered()
    await put(client, "2")
    await answers(client, "/models/tiny/versions/2/predict")
    await client.delete(VERSION.format("2"), headers=AUTH)
    trace = await (await client.get("/debug/batches")).json()
    assert "tiny:2 forward" in str(trace)


# What is shown.


async def test_models_tells_what_each_worker_has(administered):
    client = await administered()
    await put(client, "2")
    models = (await (await client.get("/models")).json())["models"]
    assert [(m["name"], m["version"], m["current"]) for m in models] == [
        ("tiny", "1", True),
        ("other", "1", True),
        ("tiny", "2", False),
    ]
    for model in models:
        (worker,) = model["workers"]
        assert (worker["state"], worker["current"]) == ("ready", model["current"])
        assert worker["pid"] > 0


async def test_progress_is_shown_while_a_version_is_loaded(administered, monkeypatch):
    client = await administered()
    seen = []
    loop = asyncio.get_running_loop()

    def look() -> None:
        shown = asyncio.run_coroutine_threadsafe(client.get("/models/tiny"), loop).result()
        body = asyncio.run_coroutine_threadsafe(shown.json(), loop).result()
        seen.append(body["versions"][-1]["progress"])

    def slow_load(config, on_bytes):
        look()
        on_bytes(5, 10)
        look()
        return load_module(config, on_bytes)

    def slow_warm(config, task, forward, most, on_size, **options):
        look()

        def tell(done, of):
            on_size(done, of)
            look()

        return warm(config, task, forward, most, tell, **options)

    monkeypatch.setattr(versions, "load_module", slow_load)
    monkeypatch.setattr(versions, "warm", slow_warm)
    await put(client, "2", batching={"max_batch_size": 4})
    assert seen == [
        {"stage": "loading", "done": 0, "of": None},
        {"stage": "downloading", "done": 5, "of": 10},
        {"stage": "loading", "done": 0, "of": None},
        *({"stage": "warm-up", "done": done, "of": 3} for done in range(4)),
    ]


async def test_a_model_that_loads_says_how_far_it_is(administered, monkeypatch):
    client = await administered()
    await put(client, "2")
    version = client.app[REPOSITORY].find("tiny", "2")
    version.state = State.FAILED
    version.error = "the test says so"
    response = await client.post("/models/tiny/versions/2/predict", json={"input": [1.0]})
    assert response.status == 503
    assert "is failed: the test says so" in (await response.json())["error"]
    ready = await client.get("/readyz")
    assert ready.status == 503
    version.loaded = False
    ready = await client.get("/readyz")
    assert (ready.status, await ready.json()) == (
        200,
        {"status": "ready", "failed": ["tiny:2"]},
    )
    version.loaded = True

"""/debug/batches: what served requests leave in the trace, and that it is one."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from batchserve.config import Config
from tests.web.clients import Client

# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
DOUBLE: dict[str, Any] = {"server": SERVER, "source": "tests.models:Double"}

NUMBER = {"type": "number", "minimum": 0}
WHOLE = {"type": "integer", "minimum": 0}
COMMON: dict[str, Any] = {"name": {"type": "string"}, "pid": WHOLE, "tid": WHOLE, "ts": NUMBER}
# The parts of the format that we use; its document is linked in batchserve/trace.py.
SCHEMA = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["ph", *COMMON],
                "properties": COMMON,
                "oneOf": [
                    {
                        "required": ["args"],
                        "properties": {
                            "ph": {"const": "M"},
                            "name": {"enum": ["process_name", "thread_name"]},
                        },
                    },
                    {
                        "required": ["cat", "dur", "args"],
                        "properties": {"ph": {"const": "X"}, "dur": NUMBER},
                    },
                    {
                        "required": ["cat", "id"],
                        "properties": {"ph": {"enum": ["b", "e"]}, "id": {"type": "string"}},
                    },
                ],
            },
        },
    },
}


async def trace(client: Client, query: str = "") -> list[dict[str, Any]]:
    response = await client.get(f"/debug/batches{query}")
    assert response.status == 200
    assert response.content_type == "application/json"
    body = await response.json()
    assert list(Draft202012Validator(SCHEMA).iter_errors(body)) == []
    events: list[dict[str, Any]] = body["traceEvents"]
    return events


def forwards(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X"]


async def test_before_the_first_request_there_are_only_names(serve):
    client = await serve(**DOUBLE)
    assert {event["ph"] for event in await trace(client)} == {"M"}


async def test_what_was_served_is_in_the_trace(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 4})
    await client.post("/predict", json={"inputs": [[1]] * 6})
    events = await trace(client)
    passes = forwards(events)
    assert [event["name"] for event in passes] == ["4 × full", "2 × idle"]
    assert [event["args"]["queued_after"] for event in passes] == [2, 0]
    begins = [event for event in events if event["ph"] == "b" and event["name"] == "tiny:1 wait"]
    assert [event["args"]["batch"] for event in begins] == [0, 0, 0, 0, 1, 1]
    assert len({event["id"] for event in begins}) == 6
    for event in begins:
        served = passes[event["args"]["batch"]]
        (left,) = (
            end["ts"]
            for end in events
            if (end["ph"], end["name"], end.get("id")) == ("e", event["name"], event["id"])
        )
        assert event["ts"] <= left <= served["ts"]


async def test_every_model_has_its_track(serve):
    described = [
        {"name": name, "version": version, "source": "tests.models:Double", "device": "cpu"}
        for name, version in [("a", "1"), ("a", "2"), ("b", "1")]
    ]
    client = await serve(Config.model_validate({"server": SERVER, "models": described}))
    for path in ("/models/b/predict", "/models/a/versions/2/predict"):
        await client.post(path, json={"input": [1]})
    events = await trace(client)
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert [tracks[event["tid"]] for event in forwards(events)] == ["b:1 forward", "a:2 forward"]
    assert len(tracks) == 4


@pytest.mark.parametrize(("query", "sizes"), [("", 3), ("?last=2", 2), ("?last=99", 3)])
async def test_as_many_batches_as_asked_for(serve, query, sizes):
    client = await serve(**DOUBLE)
    for _ in range(3):
        await client.post("/predict", json={"input": [1]})
    assert len(forwards(await trace(client, query))) == sizes


@pytest.mark.parametrize(
    "query", ["last=0", "last=-1", "last=x", "last=", "last=1.5", "last=1e3", "last=²", "first=3"]
)
async def test_another_query_is_refused(serve, query):
    client = await serve(**DOUBLE)
    response = await client.get(f"/debug/batches?{query}")
    assert response.status == 400
    body = await response.json()
    assert body["code"] == "bad_request"
    assert f"query parameter {query.split('=')[0]}:" in body["error"]

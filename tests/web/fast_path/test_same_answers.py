"""A request is answered the same, and counted the same, whichever way it takes."""

import asyncio
import re
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from batchserve.app import build_app
from batchserve.testing.serving import DoorServer
from batchserve.web.keys import METRICS, MODEL_STATS
from tests.web.clients import Client, batcher_of
from tests.web.fast_path.raw import Answer, number, read_answer, request

SERVER = {"torch_threads": 1, "max_body_mb": 0.001, "api_keys": ["a-key-of-somebody-1"]}
MODEL: dict[str, Any] = {
    "server": SERVER,
    "source": "tests.models:FailsOnNegative",
    "input_shape": [1],
    # What is learned of passes would make batches of other sizes.
    "batching": {"policy": "fixed", "max_batch_size": 4, "max_wait_ms": 0, "max_queue_size": 4},
}
KEY: dict[str, Any] = {"X_API_Key": "a-key-of-somebody-1"}
TIMES = re.compile(r"\d+\.\d+")
COUNTED = ("requests_total", "request_seconds_count", "items_total", "rejected_total",
           "decode_seconds_count", "batches_total")  # fmt: skip

REQUESTS = {
    "one": request(**KEY),
    "several": request(b'{"inputs": [[1], [2], [3]]}', **KEY),
    "a list of one": request(b'{"inputs": [[1.5]]}', **KEY),
    "a model by name": request(path="/models/tiny/predict", **KEY),
    "a version by name": request(path="/models/tiny/versions/1/predict", **KEY),
    "an id": request(X_Request_Id="mine", **KEY),
    "an id that cannot be repeated": request(X_Request_Id="not mine", **KEY),
    "a time and a priority": request(X_Request_Timeout_Ms="9000", X_Priority="bulk", **KEY),
    "a charset": request(**{**KEY, "Content_Type": "Application/JSON; charset=utf-8"}),
    "any answer": request(Accept="*/*", **KEY),
    "close": request(Connection="close", **KEY),
    "HTTP/1.0": request(http="HTTP/1.0", **KEY),
    "HTTP/1.0 on a connection that is kept": request(
        http="HTTP/1.0", Connection="keep-alive", **KEY
    ),
    "HTTP/1.0, and wrong": request(b"{}", http="HTTP/1.0", Connection="Keep-Alive", **KEY),
    "no key": request(),
    "not JSON": request(b'{"input": [1', **KEY),
    "no input": request(b"{}", **KEY),
    "both": request(b'{"input": [1], "inputs": [[1]]}', **KEY),
    "an empty list": request(b'{"inputs": []}', **KEY),
    "an empty body": request(b"", **KEY),
    "text": request(b'{"input": ["a"]}', **KEY),
    "ragged": request(b'{"input": [[1], [2, 3]]}', **KEY),
    "another shape": request(b'{"inputs": [[1], [2, 3]]}', **KEY),
    "not finite": request(b'{"input": [1e39]}', **KEY),
    "NaN": request(b'{"input": [NaN]}', **KEY),
    "nested too deep": request(b'{"input": ' + 400 * b"[" + 400 * b"]" + b"}", **KEY),
    "the model fails": request(b'{"input": [-1]}', **KEY),
    "the model fails on one": request(b'{"inputs": [[1], [-2], [3]]}', **KEY),
    "more than the queue holds": request(b'{"inputs": [[1], [2], [3], [4], [5]]}', **KEY),
    "too large": request(b'{"input": [1]}'.ljust(1100), **KEY),
    "no such model": request(path="/models/none/predict", **KEY),
    "no such version": request(path="/models/tiny/versions/7/predict", **KEY),
    "a query": request(path="/predict?top_k=1", **KEY),
    "another method": request(method="PUT", **KEY),
    "another type": request(**{**KEY, "Content_Type": "text/plain"}),
    "an answer that is not there": request(Accept="text/html", **KEY),
    "a time that is none": request(X_Request_Timeout_Ms="soon", **KEY),
}


@pytest.fixture
def both(aiohttp_client, configure):
    """Return a function that serves one config both ways, the fast path first."""

    async def start() -> tuple[Client, Client]:
        fast = await aiohttp_client(DoorServer(await build_app(configure(**MODEL))))
        plain = await aiohttp_client(TestServer(await build_app(configure(**MODEL))))
        return fast, plain

    return start


async def ask(client: Client, data: bytes) -> tuple[Answer, bool]:
    """Return the answer, and whether the connection goes on."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(data)
    answer = await read_answer(reader)
    writer.write(number(1, **KEY))
    goes_on = (await reader.read(1)) != b""
    writer.close()
    return answer, goes_on


def told(answer: Answer) -> Any:
    """Return what two answers must have in common."""
    headers = {name: TIMES.sub("T", value) for name, value in answer.headers.items()}
    headers["Date"] = "today"
    if len(headers.get("X-Request-Id", "")) == 32:
        headers["X-Request-Id"] = "made"
    body = answer.body
    if isinstance(body, dict) and body.get("code") == "internal_error":
        body = {**body, "error": "…"}
    return answer.http, answer.status, headers, body


def counted(client: Client) -> dict[str, Any]:
    """Return what has been counted, but times."""
    found = {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for sample in client.app[METRICS].readings()
        if sample.name.endswith(COUNTED)
    }
    stats = dict(client.app[MODEL_STATS].save().get("tiny:1", {}))
    return found | {name: n for name, n in stats.items() if "_s" not in name and name != "last_ms"}


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_ways_answer_the_same(both, blockbuster, name):
    fast, plain = await both()
    answers = [await ask(client, REQUESTS[name]) for client in (fast, plain)]
    (quick, quick_goes_on), (slow, slow_goes_on) = answers
    assert told(quick) == told(slow)
    assert quick_goes_on == slow_goes_on
    blockbuster.deactivate()
    if name != "the model fails on one":  # its neighbours may be tried before they are withdrawn
        assert counted(fast) == counted(plain)


async def test_both_ways_refuse_the_same_while_draining(both, blockbuster):
    found = []
    for client in await both():
        batcher_of(client).drain()
        answer, _ = await ask(client, number(1, **KEY))
        blockbuster.deactivate()
        found.append((told(answer), counted(client)))
    fast, plain = found
    assert fast[0][1] == 503
    assert "Retry-After" in fast[0][2]
    assert fast == plain


async def test_both_ways_fail_the_same_on_a_bug_in_a_task(both, monkeypatch, caplog):
    monkeypatch.setattr("batchserve.tasks.tensor.holds_text", lambda _: 1 / 0)
    fast, plain = [told((await ask(client, request(**KEY)))[0]) for client in await both()]
    assert fast == plain
    assert (fast[1], fast[3]["code"]) == (500, "internal_error")
    assert caplog.text.count("ZeroDivisionError") == 4  # ask sends two


async def test_both_ways_fail_the_same_on_an_output_that_cannot_be_encoded(both, monkeypatch):
    clients = await both()
    monkeypatch.setattr("batchserve.tasks.tensor._lists", lambda _: 1 / 0)
    fast, plain = [told((await ask(client, request(**KEY)))[0]) for client in clients]
    assert fast == plain
    assert (fast[1], fast[3]["code"]) == (500, "model_failed")

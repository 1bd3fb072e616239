"""Which requests are let onto the fast path, and how its connections end with the server."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel, Field

from batchserve.app import build_app
from batchserve.repository import ModelRepository
from batchserve.tasks.tensor import TensorTask
from batchserve.testing.serving import DoorServer
from batchserve.web.access_log import AccessLog
from batchserve.web.fast_path import server as module
from batchserve.web.fast_path.connection import Connection
from batchserve.web.fast_path.server import FastPath
from batchserve.web.keys import REPOSITORY, TRAFFIC
from tests.web.clients import batcher_of, gate, until
from tests.web.fast_path.raw import (
    Wire,
    fast_path_of,
    number,
    read_answer,
    request,
    runner_of,
    talk,
)

SERVER = {"torch_threads": 1}
DOUBLE: dict[str, Any] = {"server": SERVER, "source": "tests.models:Double"}
KEY = "a-key-of-somebody-1"


def is_fast(client, data: bytes) -> bool:
    """Whether a request is let onto the fast path, by a connection that is then cut."""
    wire = Wire()
    connection = fast_path_of(client)()
    assert isinstance(connection, Connection)
    wire.connect(connection).data_received(data)
    is_let_in = wire.protocol is connection
    wire.hang_up()
    return is_let_in


def sized(size: int) -> bytes:
    return request(b'{"input": [1.0]}'.ljust(size))


# What is let in.


async def test_a_body_below_what_the_task_decodes_at_once(serve):
    client = await serve(**DOUBLE)
    limit = TensorTask.inline_bytes
    assert is_fast(client, sized(limit - 1))
    assert not is_fast(client, sized(limit))
    answers = await talk(client, sized(limit - 1) + sized(limit), count=2)
    assert [answer.body["output"] for answer in answers] == [[2.0], [2.0]]


async def test_a_body_within_the_limit_of_the_config(serve):
    client = await serve(**{**DOUBLE, "server": {**SERVER, "max_body_mb": 0.001}})
    assert is_fast(client, sized(1048))
    assert not is_fast(client, sized(1049))
    answers = await talk(client, sized(1048) + sized(1049), count=2)
    assert [answer.status for answer in answers] == [200, 413]


async def test_a_body_that_is_parsed_at_once(serve, monkeypatch):
    client = await serve(**DOUBLE)
    monkeypatch.setattr(TensorTask, "inline_bytes", 10**9)
    assert is_fast(client, sized(65535))
    assert not is_fast(client, sized(65536))


async def test_no_input_that_may_be_named_by_its_address(serve, monkeypatch):
    client = await serve(**DOUBLE)
    monkeypatch.setattr(TensorTask, "media_types", ("image/*",))
    assert not is_fast(client, number(1))


async def test_no_task_of_which_a_client_must_state_a_parameter(serve, monkeypatch):
    class Stated(BaseModel):
        top_k: int

    client = await serve(**DOUBLE)
    monkeypatch.setattr(TensorTask, "Parameters", Stated)
    assert not is_fast(client, number(1))
    (answer,) = await talk(client, number(1))
    assert answer.status == 400


async def test_parameters_are_made_for_each_request(serve, monkeypatch):
    numbers = iter(range(100))

    class Numbered(BaseModel):
        number: int = Field(default_factory=lambda: next(numbers))

    client = await serve(**DOUBLE)
    monkeypatch.setattr(TensorTask, "Parameters", Numbered)
    monkeypatch.setattr(TensorTask, "encode", lambda _self, _row, parameters: parameters.number)
    answers = await talk(client, number(1) + number(1), count=2)
    assert [answer.body["output"] for answer in answers] == [0, 1]


async def test_no_model_that_is_not_there_or_not_ready(serve):
    client = await serve(**DOUBLE)
    assert is_fast(client, request(path="/models/tiny/predict"))
    assert is_fast(client, request(path="/models/tiny/versions/1/predict"))
    assert not is_fast(client, request(path="/models/other/predict"))
    assert not is_fast(client, request(path="/models/../predict"))
    assert not is_fast(client, request(path="/models/tiny/versions/2/predict"))
    await client.app[REPOSITORY].close()
    assert not is_fast(client, number(1))


async def test_no_request_of_which_a_candidate_might_have_its_share(serve, monkeypatch):
    client = await serve(**DOUBLE)
    monkeypatch.setattr(ModelRepository, "trial", lambda *_: SimpleNamespace())
    assert not is_fast(client, number(1))
    assert is_fast(client, request(path="/models/tiny/versions/1/predict"))


async def test_nobody_without_a_key(serve):
    client = await serve(**{**DOUBLE, "server": {**SERVER, "api_keys": [KEY]}})
    assert is_fast(client, number(1, X_API_Key=KEY))
    assert not is_fast(client, number(1))
    good, wrong, none = await talk(
        client,
        number(1, X_API_Key=KEY) + number(1, X_API_Key=KEY[:-1]) + number(1),
        count=3,
    )
    assert [answer.status for answer in (good, wrong, none)] == [200, 401, 401]


async def test_a_head_that_is_known_is_still_each_request_its_own(serve):
    client = await serve(**DOUBLE)
    first, second = await talk(client, number(1) + number(2), count=2)
    assert fast_path_of(client)._read_head.cache_info().hits == 1
    assert [answer.body["output"] for answer in (first, second)] == [[2.0], [4.0]]
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


async def test_heads_that_are_known_are_few(serve):
    client = await serve(**DOUBLE)
    for i in range(2 * module.HEADS):
        fast_path_of(client)._read_head(number(1, X_Request_Id=str(i)).partition(b"{")[0])
    assert fast_path_of(client)._read_head.cache_info().currsize == module.HEADS


# Where it stands.


async def test_on_a_unix_socket(serve, tmp_path):
    client = await serve(**DOUBLE)
    path = str(tmp_path / "here.sock")
    await web.UnixSite(runner_of(client), path).start()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(number(1))
    assert (await read_answer(reader)).body["output"] == [2.0]
    (connection,) = fast_path_of(client).connections
    assert connection.peer == ""
    writer.close()
    await writer.wait_closed()


async def test_where_requests_are_traced_there_is_none(configure):
    config = configure(**{**DOUBLE, "server": {**SERVER, "otel_endpoint": "http://127.0.0.1:9"}})
    server = DoorServer(await build_app(config))
    await server.start_server()
    try:
        runner: Any = server.runner
        assert not isinstance(runner.server, FastPath)
    finally:
        await server.close()


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str) -> None:
        self.lines.append(line)


async def test_its_answers_are_logged(aiohttp_client, configure):
    lines: Any = Lines()
    app = await build_app(configure(**DOUBLE))
    client = await aiohttp_client(DoorServer(app, AccessLog(lines, "text")))
    await talk(client, number(1, X_Request_Id="good") + request(b"{}", X_Request_Id="bad"), count=2)
    good, bad = lines.lines
    assert '127.0.0.1 "POST /predict" 200 ' in good
    assert "id=good model=tiny:1 batch=1 " in good
    assert '127.0.0.1 "POST /predict" 400 ' in bad
    assert bad.endswith("id=bad code=bad_request model=tiny:1")


# How it ends.


async def test_a_worker_that_leaves_asks_for_another_connection(serve):
    client = await serve(**DOUBLE)
    client.app[TRAFFIC].dismissing = True
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1))
    answer = await read_answer(reader)
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert await reader.read() == b""
    writer.close()


async def test_every_request_counts_whichever_way_it_takes(serve):
    client = await serve(**DOUBLE)
    enough: list[int] = []
    traffic = client.app[TRAFFIC]
    traffic._max_requests, traffic.on_enough = 3, lambda: enough.append(traffic.count)
    await talk(client, number(1) + request(b"{}") + request(path="/none") + number(2), count=4)
    assert enough == [3]
    assert fast_path_of(client).requests_count == traffic.count == 4


async def test_before_it_ends_what_has_begun_is_answered(serve):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner, fast_path = gate(client), fast_path_of(client)
    streams = [await asyncio.open_connection(client.host, client.port) for _ in range(3)]
    idle, reading, answering = streams
    await until(lambda: len(fast_path.connections) == 3)
    answering[1].write(number(1) + number(9))
    await runner.wait_started()
    slow = number(2)
    reading[1].write(slow[:-3])
    await until(lambda: client.app[TRAFFIC].in_progress == 2)

    fast_path.pre_shutdown()
    assert await idle[0].read() == b""
    reading[1].write(slow[-3:])
    for reader, value in ((answering[0], 1), (reading[0], 2)):
        runner.release()
        answer = await read_answer(reader)
        assert (answer.body["output"], answer.headers["Connection"]) == ([value], "close")
        assert await reader.read() == b""
    await fast_path.shutdown(10)
    for _, writer in streams:
        writer.close()
    assert client.app[TRAFFIC].in_progress == 0


async def test_what_takes_too_long_to_answer_is_cut_off(serve):
    client = await serve(**DOUBLE)
    runner, fast_path = gate(client), fast_path_of(client)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1))
    await runner.wait_started()
    fast_path.pre_shutdown()
    await fast_path.shutdown(0.01)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await read_answer(reader)
    writer.close()
    await until(lambda: not fast_path.connections)
    assert client.app[TRAFFIC].in_progress == 0
    runner.release()


async def test_both_ways_end_within_one_time(serve):
    client = await serve(**DOUBLE)
    gate(client)
    fast_path, waited = fast_path_of(client), []

    async def shutdown(within_s: float | None) -> None:
        waited.append((within_s, bool(fast_path.connections)))

    aiohttps: Any = fast_path.make_aiohttps
    fast_path.make_aiohttps = SimpleNamespace(shutdown=shutdown)  # type: ignore[assignment]
    wire = Wire()
    wire.connect(Connection(fast_path)).data_received(number(1))
    wire.abort = wire.hang_up  # type: ignore[method-assign]
    await fast_path.shutdown(0.01)
    fast_path.make_aiohttps = aiohttps
    assert waited == [(0.01, True)], "aiohttp's began while the fast path's was still waiting"
    assert wire.closed == "lost"


# Deadlines.


async def test_a_bug_does_not_end_the_looking_for_deadlines(serve, monkeypatch):
    client = await serve(**DOUBLE)
    fast_path = fast_path_of(client)
    exchange: Any = SimpleNamespace(deadline_s=-1.0, model=SimpleNamespace(batcher=None))
    monkeypatch.setattr(fast_path, "_busy", lambda: [exchange])
    with pytest.raises(AttributeError):
        fast_path._look()
    assert fast_path._looking is not None
    monkeypatch.undo()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1, X_Request_Timeout_Ms="1")[:-1])
    assert (await read_answer(reader)).status == 504
    writer.close()


async def test_when_nobody_asks_nobody_looks(serve):
    client = await serve(**DOUBLE)
    await talk(client, number(1))
    await until(lambda: fast_path_of(client)._looking is None)


async def test_inputs_that_are_refused_at_once_leave_nothing(serve):
    # What has failed alone twice is not tried again, and fails while its request is let in.
    client = await serve(**{**DOUBLE, "source": "tests.models:FailsOnNegative"})
    body = b'{"inputs": [[1.0], [-1.0], [2.0]]}'
    answers = await talk(client, *[request(body) for _ in range(4)], count=4)
    assert [answer.status for answer in answers] == [500] * 4
    assert "twice" in answers[-1].body["error"]
    batcher = batcher_of(client)
    await until(lambda: batcher.idle)
    assert batcher.scheduler.taken == 0
    assert client.app[TRAFFIC].in_progress == 0
    assert (await talk(client, number(1)))[0].status == 200

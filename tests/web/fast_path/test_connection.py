"""Connections: bytes in whatever pieces, in whatever order, and clients that go or do not read."""

import asyncio
import json
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchserve.app import build_app
from batchserve.testing import FakeRunner
from batchserve.testing.serving import DoorServer
from batchserve.web.fast_path import connection as module
from batchserve.web.fast_path.connection import Connection
from batchserve.web.keys import METRICS, POOL, REPOSITORY, TRAFFIC
from tests.web.clients import Client, batcher_of, gate, until
from tests.web.fast_path.raw import (
    Wire,
    fast_path_of,
    number,
    read_answer,
    request,
    talk,
)

SERVER = {"torch_threads": 1}
DOUBLE: dict[str, Any] = {"server": SERVER, "source": "tests.models:Double", "input_shape": [1]}
ANY_SHAPE: dict[str, Any] = {"server": SERVER, "source": "tests.models:Double"}
LIVE = request(b"", path="/livez", method="GET")


async def check_nothing_is_left(client: Client) -> None:
    """Nobody is connected, asks, waits or is computed."""
    fast_path, batcher = fast_path_of(client), batcher_of(client)
    await until(lambda: not fast_path.connections and batcher.idle)
    assert client.app[TRAFFIC].in_progress == 0
    assert batcher.scheduler.taken == 0


async def test_a_connection_stays_on_the_fast_path(serve):
    client = await serve(**DOUBLE)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    for i in range(5):
        writer.write(number(i, X_Request_Id=f"id-{i}"))
        answer = await read_answer(reader)
        assert answer.body == {"output": [2.0 * i], "model": "tiny", "version": "1"}
        assert answer.headers["X-Request-Id"] == f"id-{i}"
        assert len(fast_path_of(client).connections) == 1
    writer.close()
    await writer.wait_closed()
    await check_nothing_is_left(client)


@pytest.mark.parametrize("cut", [1, 20, 60, -17, -16, -10, -1])
async def test_a_request_in_two_pieces(serve, cut):
    client = await serve(**DOUBLE)
    whole = number(1.0)
    (answer,) = await talk(client, whole[:cut], whole[cut:])
    assert (answer.status, answer.body["output"]) == (200, [2.0])
    await check_nothing_is_left(client)


async def test_requests_that_are_sent_ahead_are_answered_in_order(serve):
    client = await serve(**DOUBLE)
    wrong = [request(b"not JSON"), request(b'{"input": "text"}')]
    answers = await talk(client, number(1) + wrong[0] + number(2) + wrong[1] + number(3), count=5)
    assert [answer.status for answer in answers] == [200, 400, 200, 422, 200]
    assert [a.body["output"] for a in answers if a.status == 200] == [[2.0], [4.0], [6.0]]
    await check_nothing_is_left(client)


async def test_what_is_not_for_the_fast_path_is_answered_in_its_turn(serve):
    client = await serve(**DOUBLE)
    runner = gate(client)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1) + LIVE + number(2))
    await runner.wait_started()
    runner.release()
    assert (await read_answer(reader)).body["output"] == [1.0]
    assert (await read_answer(reader)).status == 200
    assert fast_path_of(client).connections == set()
    runner.release()
    assert (await read_answer(reader)).body["output"] == [2.0]
    writer.close()
    await writer.wait_closed()
    await check_nothing_is_left(client)


async def test_what_is_wrong_is_aiohttps_to_refuse(serve):
    client = await serve(**DOUBLE)
    twice = request().replace(b"\r\n\r\n", b"\r\nContent-Length: 16\r\n\r\n", 1)
    (good, bad) = await talk(client, request() + twice, count=2)
    assert (good.status, bad.status) == (200, 400)


async def test_after_connection_close_nothing_more_is_answered(serve):
    client = await serve(**DOUBLE)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1, Connection="close") + number(2))
    answer = await read_answer(reader)
    assert answer.headers["Connection"] == "close"
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await check_nothing_is_left(client)


# In whatever pieces.


VALID = st.one_of(
    st.floats(-1e6, 1e6).map(number),
    st.lists(st.integers(-9, 9), min_size=1, max_size=3).map(
        lambda values: request(json.dumps({"inputs": [[v] for v in values]}).encode())
    ),
    st.just(request(b'{"input": "text"}')),
    st.just(request(b"{}")),
    st.just(LIVE),
)


@pytest.fixture
def loop_of_its_own():
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_however_requests_are_cut_their_answers_are_the_same(configure, loop_of_its_own):
    run = loop_of_its_own.run_until_complete

    async def start() -> DoorServer:
        server = DoorServer(await build_app(configure(**ANY_SHAPE)))
        await server.start_server()
        server.app[REPOSITORY].versions[0].batcher.passes.runner = FakeRunner()
        return server

    server = run(start())
    host, port = server.host, server.port

    async def ask(pieces: list[bytes], count: int) -> list[Any]:
        reader, writer = await asyncio.open_connection(host, port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        answers = [await read_answer(reader) for _ in range(count)]
        writer.close()
        await writer.wait_closed()
        return [(answer.status, answer.body) for answer in answers]

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(VALID, min_size=1, max_size=5), st.data())
    def check(requests: list[bytes], data: st.DataObject) -> None:
        sent = b"".join(requests)
        cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=6).map(sorted))
        pieces = [sent[i:j] for i, j in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        alone = [run(ask([one], 1))[0] for one in requests]
        assert run(ask(pieces, len(requests))) == alone

    try:
        check()
    finally:
        run(server.close())


# Clients that do not read, or send too much.


@pytest.fixture
def wired(serve):
    """Return a function that connects a wire to a server whose model waits for the test."""

    async def connect(**model: Any) -> tuple[Client, Wire, Connection]:
        client = await serve(**{**DOUBLE, **model})
        wire = Wire()
        connection = fast_path_of(client)()
        assert isinstance(connection, Connection)
        return client, wire, wire.connect(connection)

    return connect


async def test_who_sends_ahead_is_not_read_until_that_is_answered(wired, monkeypatch):
    client, wire, connection = await wired()
    runner = gate(client)
    one = number(1)
    monkeypatch.setattr(module, "MOST_AHEAD", 2 * len(one))
    connection.data_received(5 * one)
    for left in (4, 3):
        await runner.wait_started()
        assert len(connection._buffer) == left * len(one)
        assert not wire.is_reading_, "what is answered makes no room for more than that"
        runner.release()
    await runner.wait_started()
    assert wire.is_reading_
    for _ in range(3):
        runner.release()
    await until(lambda: wire.statuses == [200] * 5)
    wire.hang_up()


async def test_who_does_not_read_is_not_answered(wired):
    client, wire, connection = await wired()
    connection.pause_writing()
    connection.data_received(number(1))
    assert connection.exchange is None
    connection.resume_writing()
    await until(lambda: wire.statuses == [200])
    wire.hang_up()
    assert client.app[TRAFFIC].in_progress == 0


async def test_who_sends_many_wrong_requests_lets_others_have_a_turn(wired):
    client, wire, connection = await wired()
    connection.data_received(50 * request(b"{}"))
    assert wire.statuses == [400]
    await until(lambda: wire.statuses == [400] * 50)
    wire.hang_up()
    assert client.app[TRAFFIC].in_progress == 0


async def test_nothing_begins_on_a_connection_that_is_lost(wired):
    client, wire, connection = await wired()
    connection.data_received(2 * request(b"{}"))
    wire.hang_up()
    for _ in range(5):
        await asyncio.sleep(0)
    assert wire.statuses == [400]
    assert client.app[TRAFFIC].in_progress == 0
    assert client.app[TRAFFIC].count == 1


@pytest.mark.parametrize(("reads", "how"), [(True, "closed"), (False, "aborted")])
async def test_an_idle_connection_is_closed(wired, monkeypatch, reads, how):
    _, wire, connection = await wired()
    if not reads:
        connection.pause_writing()
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    connection._close_if_idle()
    assert wire.closed == how
    wire.hang_up()


async def test_one_that_is_being_answered_is_not_idle(wired, monkeypatch):
    client, wire, connection = await wired()
    runner = gate(client)
    connection.data_received(number(1))
    await runner.wait_started()
    connection._used_s = -1e9
    connection._close_if_idle()
    assert not wire.closed
    runner.release()
    await until(lambda: wire.statuses == [200])
    wire.hang_up()


# Clients that hang up.


@pytest.mark.parametrize("sent", [10, -16, -5], ids=["half a head", "a head", "half a body"])
async def test_a_client_that_hangs_up_in_the_middle(serve, sent):
    client = await serve(**DOUBLE)
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1.0)[:sent])
    await until(lambda: client.app[TRAFFIC].in_progress or sent == 10)
    writer.close()
    await writer.wait_closed()
    await check_nothing_is_left(client)


def is_asked(client: Client, count: int) -> bool:
    return bool(client.app[TRAFFIC].in_progress == count)


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_client_that_hangs_up_while_it_is_computed(serve, half_close):
    client = await serve(**DOUBLE, batching={"max_batch_size": 1})
    runner = gate(client)
    writers = []
    for i in range(2):
        _, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(number(i))
        await until(partial(is_asked, client, i + 1))
        writers.append(writer)
    await runner.wait_started()
    for writer in writers:
        writer.write_eof() if half_close else writer.close()
    await until(lambda: not client.app[TRAFFIC].in_progress)
    runner.release()
    await check_nothing_is_left(client)
    assert [[item.item() for item in batch] for batch in runner.batches] == [[0.0]]
    for writer in writers:
        writer.close()


async def test_a_client_that_hangs_up_while_a_large_output_is_encoded(serve, monkeypatch):
    client = await serve(**ANY_SHAPE)
    monkeypatch.setattr("batchserve.inference.INLINE_OUTPUT_BYTES", 0)
    runner = gate(client)
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1))
    await runner.wait_started()
    (connection,) = fast_path_of(client).connections
    exchange: Any = connection.exchange
    runner.release()
    await until(lambda: exchange._encoding)
    writer.transport.abort()
    await exchange._encoding
    await check_nothing_is_left(client)


async def test_large_outputs_are_encoded_elsewhere_and_answered(serve, monkeypatch):
    client = await serve(**ANY_SHAPE)
    monkeypatch.setattr("batchserve.inference.INLINE_OUTPUT_BYTES", 100)
    pool = client.app[POOL]
    encode = Mock(wraps=pool.encode)
    monkeypatch.setattr(pool, "encode", encode)
    one = request(json.dumps({"input": [*range(100)]}).encode())
    several = request(json.dumps({"inputs": [[i] for i in range(100)]}).encode())
    first, second = await talk(client, one + several, count=2)
    assert encode.call_count == 4, "rows to lists, and those to text, of both"
    assert first.body["output"] == [2.0 * i for i in range(100)]
    assert second.body["outputs"] == [[2.0 * i] for i in range(100)]


# What comes too late, or finds no place.


async def test_a_body_that_does_not_come_in_time(serve):
    client = await serve(**DOUBLE)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(number(1, X_Request_Timeout_Ms="1")[:-3])
    answer = await read_answer(reader)
    assert (answer.status, answer.body["code"]) == (504, "deadline_exceeded")
    assert answer.body["error"] == "no answer within 1 ms"
    # What may still come of the body is no request.
    assert answer.headers["Connection"] == "close"
    assert await reader.read() == b""
    writer.close()
    await check_nothing_is_left(client)


async def test_a_body_that_comes_when_there_is_no_place_any_more(serve):
    batching = {"max_batch_size": 1, "max_queue_size": 1}
    client = await serve(**DOUBLE, batching=batching)
    runner, batcher = gate(client), batcher_of(client)
    first = asyncio.create_task(talk(client, number(1)))
    await runner.wait_started()
    slow = request(b'{"input": [2.0]}')
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(slow[:-5])
    await until(lambda: batcher._arriving)
    second = asyncio.create_task(talk(client, number(3)))
    await until(lambda: batcher.queued)
    writer.write(slow[-5:])
    answer = await read_answer(reader)
    assert (answer.status, answer.body["code"]) == (503, "queue_full")
    assert answer.headers["Retry-After"]
    for _ in range(3):
        runner.release()
    assert [(await task)[0].status for task in (first, second)] == [200, 200]
    # It has been read, and the connection goes on.
    writer.write(number(4))
    assert (await read_answer(reader)).body["output"] == [4.0]
    writer.close()
    await check_nothing_is_left(client)


async def test_a_row_that_comes_too_late_is_not_answered(wired, monkeypatch):
    monkeypatch.setattr("batchserve.web.fast_path.server.LOOK_S", 3600)
    client, wire, connection = await wired()
    runner, batcher = gate(client), batcher_of(client)
    now_s = batcher.clock()
    batcher.clock = batcher.passes._clock = lambda: now_s
    connection.data_received(number(1))
    await runner.wait_started()
    now_s += 31
    runner.release()
    await until(lambda: wire.statuses)
    assert wire.statuses == [504]
    wire.hang_up()
    looking: Any = fast_path_of(client)._looking
    looking.cancel()


async def test_a_large_body_is_not_refused_for_its_pieces(serve, monkeypatch):
    monkeypatch.setattr(module, "MOST_AHEAD", 1000)
    client = await serve(**ANY_SHAPE)
    body = json.dumps({"input": [0.5] * 4000}).encode()
    whole = request(body)
    pieces = [whole[i : i + 700] for i in range(0, len(whole), 700)]
    (answer,) = await talk(client, *pieces)
    assert answer.body["output"] == [1.0] * 4000


# Bugs.


async def test_an_answer_that_cannot_be_counted_is_given(serve, monkeypatch, caplog):
    client = await serve(**DOUBLE)

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug in counting")

    with monkeypatch.context() as patch:
        patch.setattr(client.app[METRICS], "on_answer", broken)
        (answer,) = await talk(client, number(1))
    assert answer.body["output"] == [2.0]
    assert "a bug in counting" in caplog.text
    assert batcher_of(client).running
    assert (await talk(client, number(2)))[0].body["output"] == [4.0]
    await check_nothing_is_left(client)


async def test_a_connection_whose_answer_cannot_be_written_is_closed(wired, monkeypatch, caplog):
    client, wire, connection = await wired()

    def broken(_: bytes) -> None:
        raise RuntimeError("a bug in writing")

    monkeypatch.setattr(wire, "write", broken)
    connection.data_received(number(1))
    await until(lambda: wire.closed)
    assert wire.closed == "aborted"
    assert "a bug in writing" in caplog.text
    wire.hang_up()
    assert (await talk(client, number(2)))[0].body["output"] == [4.0]
    await check_nothing_is_left(client)

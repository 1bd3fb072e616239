"""A worker's sockets, as one of a crew."""

import asyncio
import copy
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from batchserve.app import build_app
from batchserve.crew import Crew
from batchserve.web.door import MANY, Door
from batchserve.web.keys import TRAFFIC
from tests.web.clients import until
from tests.web.fast_path.raw import Answer, read_answer, request

ASK = request()
LIVE = request(b"", path="/livez", method="GET")


@pytest.fixture
def crews() -> list[Crew]:
    """Return what two workers have of their crew; the first one listens."""
    master = Crew()
    workers = []
    for _ in range(2):
        master.reserve()
        workers.append(copy.copy(master))
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    workers[0].listen_on([sock], None)
    return workers


@pytest.fixture
async def door(configure, crews) -> AsyncIterator[Door]:
    app = await build_app(configure(source="tests.models:Double", input_shape=[1]))
    found = Door(app, None, crews[0], handler_cancellation=True, shutdown_timeout=0.1)
    await found.setup()
    yield found
    await found.cleanup()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await read_answer(self.reader)


Connect = Callable[[int], Coroutine[Any, Any, list[Client]]]


@pytest.fixture
async def connect(door) -> AsyncIterator[Connect]:
    """Return a function that connects so often."""
    clients: list[Client] = []

    async def many(count: int) -> list[Client]:
        opened = [await asyncio.open_connection(*door.addresses[0]) for _ in range(count)]
        clients.extend(Client(*found) for found in opened)
        await until(lambda: len(door._connections()) == count)
        return clients

    yield many
    for client in clients:
        client.writer.close()
        await client.writer.wait_closed()


def counted(crew: Crew) -> list[int]:
    return [other.connections for other in crew.others().values()]


async def test_a_door_answers_and_tells_the_others_how_many_are_connected(door, crews, connect):
    clients = await connect(3)
    assert [(await client.ask(ASK)).status for client in clients] == [200, 200, 200]
    door.spread()
    assert counted(crews[1]) == [3]


@pytest.mark.parametrize("ask", [ASK, LIVE])
async def test_connections_above_the_mean_end_and_say_so(door, crews, connect, ask):
    clients = await connect(8)
    # Some are aiohttp's, some not yet anybody's.
    before = [await client.ask(ask) for client in clients]
    assert not any("Connection" in answer.headers for answer in before)
    crews[1].look(0)
    door.spread()
    answers = [await client.ask(ask) for client in clients]
    assert [answer.status for answer in answers] == 8 * [200]
    ended = [c for c, a in zip(clients, answers, strict=True) if "Connection" in a.headers]
    assert len(ended) == 4
    for client in ended:
        assert await client.reader.read() == b""
    await until(lambda: len(door._connections()) == 4)
    crews[1].look(4)
    door.spread()
    assert not door.app[TRAFFIC].surplus


async def test_whoever_is_asked_to_end_an_idle_connection_is_so_later(door, crews, connect):
    clients = await connect(8)
    chosen = []
    for _ in range(3):
        crews[1].look(0)
        door.spread()
        chosen.append(set(door.app[TRAFFIC].surplus))
    assert len(chosen[0]) == 4
    assert chosen[0] == chosen[1] == chosen[2]
    answers = [await client.ask(ASK) for client in clients]
    assert sum("Connection" in answer.headers for answer in answers) == 4


async def test_a_worker_that_leaves_gets_no_more_connections(door, crews):
    door.app[TRAFFIC].dismissing = True
    door.spread()
    assert counted(crews[1]) == [MANY]


async def test_a_door_that_is_closed_is_not_waited_for(door, crews, connect):
    (client,) = await connect(1)
    door.spread()
    await door.close(for_good=False)
    assert counted(crews[1]) == []
    door.spread()
    assert counted(crews[1]) == []
    assert (await client.ask(ASK)).status == 200


async def test_so_it_is_when_aiohttps_worker_is_interrupted(door, crews):
    door.spread()
    for site in door.sites:
        await site.stop()
    door.spread()
    assert counted(crews[1]) == []


async def test_who_waits_when_a_door_is_closed_for_good_is_let_in(door, crews):
    crews[1].look(0)
    waiting = [socket.create_connection(door.addresses[0]) for _ in range(20)]
    await door.close(for_good=True)
    for sock in waiting:
        client = Client(*await asyncio.open_connection(sock=sock))
        assert (await client.ask(ASK)).status == 200
        client.writer.close()
        await client.writer.wait_closed()


async def test_a_worker_without_file_descriptors_wants_no_connections(door, crews):
    door.spread()
    crews[0].close()
    door._listeners[0].is_able = False
    door.spread()
    assert counted(crews[1]) == []


async def test_a_single_worker_lets_go_of_nothing(configure):
    alone = copy.copy(Crew())
    app = await build_app(configure(source="tests.models:Double", input_shape=[1]))
    door = Door(app, None, alone)
    await door.setup()
    door.spread()
    assert alone._cells[1] == 0
    await door.cleanup()

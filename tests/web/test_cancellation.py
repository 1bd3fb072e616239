"""Ten thousand clients that hang up leave no trace."""

import asyncio
import ctypes
import gc
import sys
from collections import Counter
from itertools import pairwise
from statistics import median
from typing import Any

import psutil
from aiohttp import web
from blockbuster import BlockBuster

from batchserve import app as app_module
from batchserve.batch import Item
from batchserve.batching.batcher import Arrival
from tests.batching.clients import check_empty, turns
from tests.web.clients import Client, batcher_of, gate, until

CLIENTS, AT_A_TIME = 10_000, 250
TURNS = 4  # after which the memory is looked at
DOUBLE: dict[str, Any] = {
    "server": {"torch_threads": 1},
    "source": "tests.models:Double",
    "batching": {"max_batch_size": 4, "max_queue_size": 1 + 2 * AT_A_TIME},
}
ONE, TWO, HALF = b'{"input": [2.0]}', b'{"inputs": [[3.0], [4.0]]}', b'{"input": '


def request(body: bytes, length: int) -> bytes:
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


# A request of one input, one of two, and one that is not sent to its end.
KINDS = [request(ONE, len(ONE)), request(TWO, len(TWO)), request(HALF, len(ONE))]


async def hang_up(client: Client, number: int) -> None:
    """Have so many clients ask, and leave when all of them wait."""
    batcher = batcher_of(client)
    opened = [await asyncio.open_connection(client.host, client.port) for _ in range(number)]
    for i, (_, writer) in enumerate(opened):
        writer.write(KINDS[i % len(KINDS)])
    items = sum((1, 2, 0)[i % len(KINDS)] for i in range(number))
    unfinished = len(range(2, number, len(KINDS)))
    await until(lambda: (batcher.queued, len(batcher._arriving)) == (items, unfinished))
    for i, (_, writer) in enumerate(opened):
        if i % 2:
            writer.transport.abort()
        else:
            writer.close()
    await until(lambda: not batcher.queued and not batcher._arriving)


async def things() -> Counter[type]:
    """Count what lives, once whatever still ends has ended."""
    await turns()
    gc.collect()
    return Counter(map(type, gc.get_objects()))


def rss() -> int:
    """Return this process's memory, without what its allocator keeps although it is free."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
    found: int = psutil.Process().memory_info().rss
    return found


async def test_ten_thousand_clients_that_hang_up_leave_no_trace(serve, blockbuster: BlockBuster):
    blockbuster.deactivate()  # it looks at every call
    client = await serve(**DOUBLE)
    runner, batcher = gate(client), batcher_of(client)
    first = asyncio.create_task(client.post("/predict", json={"input": [1.0]}))
    await runner.wait_started()

    for _ in range(2):
        await hang_up(client, AT_A_TIME)
    before, memory = await things(), [rss()]
    for _ in range(CLIENTS // AT_A_TIME // TURNS):
        for _ in range(TURNS):
            await hang_up(client, AT_A_TIME)
        after = await things()
        memory.append(rss())
    assert batcher.scheduler.taken == 0
    assert after[Arrival] <= before[Arrival]
    assert after[Item] <= before[Item]
    more = {kind: count for kind, count in (after - before).items() if count > AT_A_TIME}
    assert more == {}, "something is left of each"
    # What clients leave behind, each thousand of them does; what the process takes once, one does.
    grown = median(then - earlier for earlier, then in pairwise(memory))
    assert grown < 200 * TURNS * AT_A_TIME

    # None of them is computed, and the next one is.
    runner.release()
    assert (await first).status == 200
    runner.release()
    response = await client.post("/predict", json={"input": [5.0]})
    assert response.status == 200
    assert [[item.tolist() for item in batch] for batch in runner.batches] == [[[1.0]], [[5.0]]]
    await until(lambda: not batcher.in_flight)
    check_empty(batcher)


async def test_production_has_aiohttp_cancel_the_handlers_of_those_who_hang_up(
    configure, monkeypatch, blockbuster: BlockBuster
):
    blockbuster.deactivate()  # before it serves, it may block
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(app_module, "valid_config", lambda _environment: configure())
    monkeypatch.setattr(app_module, "_log_to_gunicorn", lambda: None)
    runner = await app_module.create_app()
    try:
        assert isinstance(runner, web.AppRunner)
        assert runner._kwargs["handler_cancellation"] is True
    finally:
        await runner.app.cleanup()

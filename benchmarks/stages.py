"""What a small request costs in our process, stage by stage.

    python benchmarks/stages.py [--clients 16] [--rounds 400] [--results FILE]

Everything is the server's own code; only the sockets are missing. Of all times of a stage the
shortest counts, as the rest is what other processes took: microseconds per request. The whole is
more than the sum, because a stage that is run again and again finds all of its code in the caches.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
import uvloop
from aiohttp import web
from rich.console import Console
from rich.table import Table

from batchserve.app import build_app
from batchserve.batch import Terms
from batchserve.config import Config
from batchserve.inference import decode, encode_rows
from batchserve.web.fast_path.head import read_head
from batchserve.web.fast_path.server import FastPath
from batchserve.web.formats import STRUCTURED
from batchserve.web.keys import CONFIG, FAST_PATH, REPOSITORY
from batchserve.web.schema import schema_of

BODY = json.dumps({"input": [round(0.1 * i, 1) for i in range(10)]}).encode()
HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)
JSON = STRUCTURED[0]


class Wire:
    """In place of a socket: counts what is written."""

    written = 0

    def write(self, data: bytes) -> None:
        Wire.written += 1

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def resume_reading(self) -> None:
        """There is nothing to be read."""


def tiny() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))


def shortest_us(work: Callable[[], Any], rounds: int, per: int = 1) -> float:
    best_s = float("inf")
    for _ in range(rounds):
        began_s = perf_counter()
        work()
        best_s = min(best_s, perf_counter() - began_s)
    return 1e6 * best_s / per


async def whole_us(app: web.Application, clients: int, rounds: int) -> float:
    """Return what a request takes from its bytes to those of its answer, among so many."""
    front = FastPath(
        cast("web.Server", None), app[CONFIG].server, app[REPOSITORY], app[FAST_PATH], None
    )
    connections = [front() for _ in range(clients)]
    for connection in connections:
        connection.connection_made(cast("asyncio.Transport", Wire()))
    best_s = float("inf")
    for _ in range(rounds):
        answered = Wire.written + clients
        began_s = perf_counter()
        for connection in connections:
            connection.data_received(HEAD + BODY)
        while Wire.written < answered:  # noqa: ASYNC110 - the turns are what is measured
            await asyncio.sleep(0)
        best_s = min(best_s, perf_counter() - began_s)
    return 1e6 * best_s / clients


def stages_us(app: web.Application, clients: int, rounds: int) -> dict[str, float]:
    """Return what each stage takes per request."""
    model, services = app[REPOSITORY].find(), app[FAST_PATH]
    batcher, task = model.batcher, model.task
    front = FastPath(cast("web.Server", None), app[CONFIG].server, app[REPOSITORY], services, None)
    schema, parameters = schema_of(type(task)).request, task.Parameters()
    payloads = JSON.parse(BODY, schema, task)[0]
    tensors = decode(task, payloads)
    now_s = batcher.clock()
    terms = Terms(now_s + 30, now_s + 30)
    forward = batcher.runner._forward  # type: ignore[attr-defined]  # noqa: SLF001
    row = forward(tensors)[0]
    output = task.encode(row, parameters)
    content = {"output": output, "model": model.name, "version": model.version}

    def admit() -> list[Any]:
        arrivals = []
        for _ in range(clients):
            arrival = batcher.arrival(terms)
            arrival.submit(tensors, lambda: cast("asyncio.Future[Any]", Untold()))
            arrivals.append(arrival)
        return arrivals

    def batch() -> None:
        admit()
        batcher.scheduler.next_batch(batcher.clock(), 0, draining=False)

    admitting_us = shortest_us(lambda: (admit(), batcher.scheduler.take_all()), rounds, clients)
    return {
        "head, as of a new client": shortest_us(lambda: _read_anew(app), rounds),
        "head, as seen before": shortest_us(lambda: front._read_head(HEAD), rounds),  # noqa: SLF001
        "JSON": shortest_us(lambda: JSON.parse(BODY, schema, task), rounds),
        "decode": shortest_us(lambda: decode(task, payloads), rounds),
        "admission and queue": admitting_us,
        "batch": shortest_us(batch, rounds, clients) - admitting_us,
        "collate": shortest_us(lambda: task.collate(tensors * clients), rounds, clients),
        "collate, forward, rows": shortest_us(lambda: forward(tensors * clients), rounds, clients),
        "encode": shortest_us(
            lambda: encode_rows(lambda r: task.encode(r, parameters), [row]), rounds
        ),
        "JSON of the answer": shortest_us(lambda: JSON.write(content), rounds),
    }


class Untold:
    """As much of a future as one needs whom nobody awaits."""

    def done(self) -> bool:
        return False

    def cancel(self) -> bool:
        return True


def _read_anew(app: web.Application) -> None:
    read_head(HEAD, app[CONFIG].server)


async def measure(clients: int, rounds: int) -> dict[str, float]:
    app = await build_app(
        Config.model_validate(
            {"models": [{"name": "tiny", "source": "stages:tiny", "device": "cpu"}]}
        )
    )
    found = stages_us(app, clients, rounds)
    found["all of it, without sockets"] = await whole_us(app, clients, rounds)
    app[REPOSITORY].drain()
    await app[REPOSITORY].close()
    return found


def show(found: dict[str, float], clients: int) -> None:
    table = Table("stage", "µs per request", title=f"tiny, {clients} clients")
    for stage, cost_us in found.items():
        table.add_row(stage, f"{cost_us:.2f}")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--results", type=Path, help="a JSON file")
    options = parser.parse_args(arguments)
    found = uvloop.run(measure(options.clients, options.rounds))
    show(found, options.clients)
    if options.results:
        options.results.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

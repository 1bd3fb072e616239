"""Traffic for soak.py: good, bad and rude requests, and what answer each of them may get."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from bench_models import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

TOO_MUCH = 300_000  # bytes; more than the server's limit
FRESH_S = 1.0  # a connection idle for longer is not used again
GIVE_UP_S = 30.0  # far above any deadline of the server
OK, UNAVAILABLE, TOO_LATE = 200, 503, 504


@dataclass(frozen=True)
class Request:
    """One request and what may come of it.

    Attributes:
        kind: for the report.
        body: JSON, or what claims to be.
        status: the answer that it deserves; 503 and 504 are right at any time.
        numbers: that its rows must show, in order.
        headers: beside the usual ones.
        pause_s: in the middle of sending the body.
        hang_up_s: after how long the client leaves; None: it stays.
    """

    kind: str
    body: bytes
    status: int = OK
    numbers: tuple[int, ...] = ()
    headers: str = ""
    pause_s: float = 0.0
    hang_up_s: float | None = None

    @property
    def head(self) -> bytes:
        return (
            f"POST /predict HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body)}\r\n{self.headers}\r\n"
        ).encode()


class Mix:
    """Makes requests of all kinds at random; no number comes twice."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._numbers = count(1)
        self._kinds: dict[Callable[[], Request], float] = {
            self._good: 60,
            self._interactive: 8,
            self._bulk: 4,
            self._slow: 3,
            self._hang_up: 8,
            self._not_json: 5,
            self._wrong_shape: 5,
            self._nan: 3,
            self._oversized: 2,
            self._poisoned: 1,
        }

    def next(self) -> Request:
        (make,) = self._rng.choices([*self._kinds], [*self._kinds.values()])
        return make()

    def _one(self, kind: str, marker: float = Witness.PLAIN, **changes: Any) -> Request:
        number = next(self._numbers)
        body = json.dumps({"input": [number, marker]}).encode()
        return Request(kind, body, **{"numbers": (number,), **changes})

    def _good(self) -> Request:
        return self._one("good")

    def _interactive(self) -> Request:
        return self._one("interactive", headers="X-Priority: interactive\r\n")

    def _bulk(self) -> Request:
        numbers = tuple(next(self._numbers) for _ in range(self._rng.randint(2, 20)))
        body = json.dumps({"inputs": [[number, Witness.PLAIN] for number in numbers]}).encode()
        return Request("bulk", body, numbers=numbers, headers="X-Priority: bulk\r\n")

    def _slow(self) -> Request:
        return self._one("slow upload", pause_s=self._rng.uniform(0.1, 1.5))

    def _hang_up(self) -> Request:
        return self._one("hangs up", hang_up_s=self._rng.expovariate(10))

    def _not_json(self) -> Request:
        return Request("not JSON", b'{"input": [1, 2', status=400)

    def _wrong_shape(self) -> Request:
        return Request("wrong shape", b'{"input": [1, 2, 3]}', status=422)

    def _nan(self) -> Request:
        # What a model's NaN becomes is its task's business: null, or an error.
        return self._one("NaN", Witness.NAN, numbers=())

    def _oversized(self) -> Request:
        return Request("oversized", b" " * TOO_MUCH, status=413)

    def _poisoned(self) -> Request:
        return self._one("poisoned", Witness.POISON, status=500)


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    opened_s: float
    used_s: float = 0.0

    @property
    def port(self) -> int:
        port: int = self.writer.get_extra_info("sockname")[1]
        return port

    @property
    def is_fresh(self) -> bool:
        closed = self.reader.at_eof() or self.writer.is_closing()
        return not closed and time.monotonic() - self.used_s < FRESH_S


@dataclass
class Tally:
    """What was sent and what came back.

    Attributes:
        victims: ports of connections to a worker that was killed, with the time of that.
        seen: when each worker was last heard of.
    """

    sent: dict[str, int] = field(default_factory=dict)
    statuses: dict[tuple[str, int], int] = field(default_factory=dict)
    cut: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    victims: dict[int, float] = field(default_factory=dict)
    seen: dict[int, float] = field(default_factory=dict)


class Client:
    """Sends requests over connections that it keeps, and checks every answer."""

    def __init__(self, host: str, port: int, tally: Tally) -> None:
        self._address = (host, port)
        self._idle: list[Connection] = []
        self.tally = tally

    async def send(self, request: Request) -> None:
        """Send one request, and count what comes of it."""
        tally = self.tally
        tally.sent[request.kind] = tally.sent.get(request.kind, 0) + 1
        connection = await self._connect()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                answer = await self._exchange(connection, request)
        except (OSError, EOFError, TimeoutError) as error:
            connection.writer.close()
            self._count_failure(connection, request, error)
            return
        if answer is None:
            connection.writer.close()
            return
        status, body, stays_open = answer
        tally.statuses[request.kind, status] = tally.statuses.get((request.kind, status), 0) + 1
        self._check(request, status, body)
        connection.used_s = time.monotonic()
        if stays_open:
            self._idle.append(connection)
        else:
            connection.writer.close()

    async def _connect(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh:
                return connection
            connection.writer.close()
        reader, writer = await asyncio.open_connection(*self._address)
        return Connection(reader, writer, time.monotonic())

    async def _exchange(
        self, connection: Connection, request: Request
    ) -> tuple[int, bytes, bool] | None:
        """Return the answer; None if we have hung up before."""
        if request.hang_up_s is None:
            await self._write(connection, request)
            return await _read_answer(connection.reader)
        try:
            async with asyncio.timeout(request.hang_up_s):
                await self._write(connection, request)
                return await _read_answer(connection.reader)
        except TimeoutError:
            return None

    async def _write(self, connection: Connection, request: Request) -> None:
        middle = len(request.body) // 2 if request.pause_s else 0
        connection.writer.write(request.head + request.body[:middle])
        await asyncio.sleep(request.pause_s)
        if connection.writer.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        connection.writer.write(request.body[middle:])
        await connection.writer.drain()

    def _count_failure(self, connection: Connection, request: Request, error: Exception) -> None:
        killed_s = self.tally.victims.get(connection.port, 0.0)
        if connection.opened_s <= killed_s:
            self.tally.cut += 1
        else:
            self.tally.lost.append(f"{request.kind}: {type(error).__name__} {error}")

    def _check(self, request: Request, status: int, body: bytes) -> None:
        if status in (UNAVAILABLE, TOO_LATE):
            return
        is_nan = request.kind == "NaN" and status in (OK, 500)
        if status != request.status and not is_nan:
            self.tally.wrong.append(f"{request.kind}: {status} {body[:200]!r}")
        elif status == OK:
            self._check_rows(request, json.loads(body))

    def _check_rows(self, request: Request, answer: dict[str, Any]) -> None:
        rows = answer["outputs"] if "outputs" in answer else [answer["output"]]
        self.tally.seen[int(rows[0][1])] = time.monotonic()
        found = tuple(row[0] for row in rows)
        expected = tuple(2 * number for number in request.numbers) or (None,)
        if found != expected:
            self.tally.wrong.append(f"{request.kind}: {found} instead of {expected}")


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    body = await reader.readexactly(length)
    return int(head.split()[1]), body, "connection: close" not in head

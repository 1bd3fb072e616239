"""Connections to a server: as many as it takes, up to a limit."""

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from batchserve.bench.connection import SUCCESS, Connection, Exchange
from batchserve.bench.tally import Tally
from batchserve.bench.target import Target

if TYPE_CHECKING:
    import ssl

TIMED_OUT = "timeout"
LIMIT_OF_FILES = "too many open files"
LOOK_S = 0.1


class Pool:
    """Sends requests, each on a connection that has nothing else to do, and notes their fate.

    Args:
        target: where to.
        limit: of connections; what finds all of them busy waits for its turn.
        timeout_s: after which a request is given up.
        begin_s: on the clock; what is noted counts from it.
        clock: monotonic, in seconds.
        on_done: called after each request with its outcome.
    """

    def __init__(
        self,
        target: Target,
        limit: int,
        timeout_s: float,
        begin_s: float,
        clock: Callable[[], float],
        on_done: Callable[[str], None],
    ) -> None:
        self.tally = Tally()
        self.in_flight = 0
        self._target = target
        self._tls: ssl.SSLContext | None = target.tls()
        self._limit = limit
        self._timeout_s = timeout_s
        self._begin_s = begin_s
        self._clock = clock
        self._on_done = on_done
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Exchange] = deque()
        self._known: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<Pool {len(self._connections)} connections, {self.in_flight} in flight>"

    def send(self, wire: bytes, meant_s: float) -> None:
        """Send a request as soon as a connection is free, whenever it was meant to be sent."""
        exchange = Exchange(wire, meant_s, self._clock())
        self.in_flight += 1
        if self._idle:
            self._idle.pop().start(exchange)
            return
        self._waiting.append(exchange)
        if not self._open():
            self.tally.waited += 1

    async def give_up_late(self) -> None:
        """Give up what has no answer in time, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            due_s = self._clock() - self._timeout_s
            for connection in list(self._connections):
                if connection.exchange is not None and connection.exchange.sent_s < due_s:
                    connection.abort(TIMED_OUT)
            while self._waiting and self._waiting[0].sent_s < due_s:
                self._note(self._waiting.popleft(), TIMED_OUT)

    def close(self) -> None:
        """Close all connections, whatever is in progress."""
        for task in self._opening:
            task.cancel()
        for connection in self._connections:
            connection.close()

    # What a connection tells.

    def answered(self, connection: Connection, exchange: Exchange) -> None:
        status = connection.status
        name = self._known.get(status) or self._outcome(connection)
        batch_size, timing = connection.batch_size, connection.timing
        if connection.keeps_alive:
            self._free(connection)
        else:
            self._connections.discard(connection)
            self._open_for_waiting()
        self._note(exchange, name, batch_size, timing)

    def failed(self, connection: Connection, exchange: Exchange | None, reason: str) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if exchange is not None:
            self._note(exchange, reason)
        self._open_for_waiting()

    def _outcome(self, connection: Connection) -> str:
        status, body = connection.status, connection.body
        if status in SUCCESS:
            return self._known.setdefault(status, str(status))
        code = code_of(body)
        name = f"{status} {code}" if code else str(status)
        self.tally.messages.setdefault(name, body)
        return name

    def _note(
        self, exchange: Exchange, name: str, batch_size: int = 0, timing: bytes = b""
    ) -> None:
        begin_s = self._begin_s
        self.in_flight -= 1
        self.tally.note(
            exchange.meant_s - begin_s,
            exchange.sent_s - begin_s,
            self._clock() - begin_s,
            name,
            batch_size,
            timing,
        )
        self._on_done(name)

    def _free(self, connection: Connection) -> None:
        if self._waiting:
            connection.start(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _open_for_waiting(self) -> None:
        if len(self._waiting) > len(self._opening):
            self._open()

    def _open(self) -> bool:
        """Make a connection, if there may be another one."""
        if len(self._connections) + len(self._opening) >= self._limit:
            return False
        task = asyncio.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _connect(self) -> None:
        connection = Connection(self)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._target.connect(lambda: connection, self._tls)
        except TimeoutError:
            self._fail_first(TIMED_OUT)
        except OSError as error:
            self._fail_first(reason_of(error))
        else:
            self.tally.connected += 1
            self._connections.add(connection)
            self._free(connection)

    def _fail_first(self, reason: str) -> None:
        # Whoever waited for this one may have got another.
        if self._waiting:
            self._note(self._waiting.popleft(), reason)


def reason_of(error: OSError) -> str:
    """Return what came in the way of a connection, in a few words."""
    if error.errno == errno.EMFILE:
        return LIMIT_OF_FILES
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"no connection: {error.strerror or error or type(error).__name__}"


def code_of(body: bytes) -> str:
    """Return the code of an error as batchserve answers it, empty if there is none."""
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    code = answer.get("code") if isinstance(answer, dict) else None
    return code if isinstance(code, str) else ""

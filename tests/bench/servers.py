"""A server in memory and on virtual time: what a `Target` is to a `Pool`, without a network."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Batch-Size: 1\r\n\r\n{}"

Respond = Callable[["Line"], Any]


class Line:
    """A connection as the server sees it, and as the client's protocol writes to it."""

    def __init__(self, protocol: Any, respond: Respond) -> None:
        self.client = protocol
        self.received: list[bytes] = []
        self.is_open = True
        self._respond = respond

    def write(self, wire: bytes) -> None:
        self.received.append(wire)
        self._respond(self)

    def answer(self, *parts: bytes) -> None:
        for part in parts or (ANSWER,):
            if self.is_open:
                self.client.data_received(part)

    def close(self, error: Exception | None = None) -> None:
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().call_soon(self.client.connection_lost, error)

    abort = close


class FakeTarget:
    """Takes connections; `respond` says what becomes of a request."""

    def __init__(self, respond: Respond) -> None:
        self.lines: list[Line] = []
        self.refuses: OSError | None = None
        self._respond = respond

    def tls(self) -> None:
        return None

    async def connect(
        self, make: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None
    ) -> None:
        await asyncio.sleep(0)
        if self.refuses is not None:
            raise self.refuses
        protocol = make()
        line = Line(protocol, self._respond)
        self.lines.append(line)
        protocol.connection_made(line)  # type: ignore[arg-type]


class OneByOne:
    """Computes one request after the other; as a model does, it may be held up for a while.

    Args:
        takes_s: for each request.
        stalls_at_s: when it is held up.
        stalls_s: for how long.
    """

    def __init__(self, takes_s: float, stalls_at_s: float = 1e9, stalls_s: float = 0.0) -> None:
        self._takes_s = takes_s
        self._stalls_at_s = stalls_at_s
        self._stalls_s = stalls_s
        self._free_s = 0.0

    def __call__(self, line: Line) -> None:
        loop = asyncio.get_running_loop()
        begin_s = max(loop.time(), self._free_s)
        if self._stalls_s and begin_s >= self._stalls_at_s:
            begin_s, self._stalls_s = begin_s + self._stalls_s, 0.0
        self._free_s = begin_s + self._takes_s
        loop.call_at(self._free_s, line.answer)

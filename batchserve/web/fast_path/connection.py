"""One client's connection, until it asks for something that is not for the fast path."""

import asyncio
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from aiohttp.http import SERVER_SOFTWARE

from batchserve.web.fast_path.exchange import Exchange

if TYPE_CHECKING:
    from batchserve.web.fast_path.server import FastPath

# Of what a client sends ahead of its answers.
MOST_AHEAD = 2**18
# What is to be said of a connection that ends, or that does not (RFC 9112, 9.3).
CONNECTION = {
    ("1.0", False): "Connection: keep-alive\r\n",
    ("1.1", True): "Connection: close\r\n",
}
# As aiohttp does.
IDLE_S = 3630.0


class Connection(asyncio.Protocol):
    """Answers one request after the other.

    Args:
        server: to which it belongs.

    Attributes:
        exchange: the request that is being read or answered.
        peer: who asks; empty on a Unix socket.
    """

    def __init__(self, server: "FastPath") -> None:
        self.exchange: Exchange | None = None
        self.peer = ""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle
        self._used_s = self._loop.time()
        self._buffer = b""
        self._is_reading = False  # the exchange's body
        self._is_paused = False
        self._is_writable = True
        self._is_ending = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        self._timer = self._loop.call_later(IDLE_S, self._close_if_idle)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._buffer = b""
        if self.exchange is not None:
            self.exchange.abandon()

    # What the server calls.

    def finish(self) -> None:
        """Close it, after the answer to what is being asked."""
        self._is_ending = True
        if self.exchange is None:
            self._transport.close()

    def abort(self) -> None:
        """Close it, whatever is being asked."""
        self._transport.abort()

    # The parts of it.

    def _advance(self) -> None:
        """Take what has come in, up to the end of one request."""
        if self._transport.is_closing():
            return
        if self._buffer and self._is_writable:
            is_new = self.exchange is None
            if is_new:
                self._begin()
            self._read(at_once=is_new)
        if self._is_paused != (len(self._buffer) > MOST_AHEAD and not self._is_reading):
            self._pause_or_resume()

    def _begin(self) -> None:
        begun = self._server.begin(self._buffer, self._answer)
        if begun is None:
            self._hand_over()
            return
        self.exchange, head_bytes = begun
        self._buffer = self._buffer[head_bytes:]
        self._is_reading = True

    def _read(self, *, at_once: bool) -> None:
        exchange = self.exchange
        if exchange is None or not self._is_reading or len(self._buffer) < exchange.head.size:
            return
        size = exchange.head.size
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        self._is_reading = False
        exchange.read(body, at_once=at_once)

    def _pause_or_resume(self) -> None:
        self._is_paused = not self._is_paused
        if self._is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _hand_over(self) -> None:
        """Leave the connection to aiohttp, with what has come in and is not answered."""
        self._leave()
        data, self._buffer = self._buffer, b""
        protocol = self._server.make_aiohttps()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._is_paused:
            self._pause_or_resume()
        protocol.data_received(data)

    def _answer(self, exchange: Exchange, body: bytes) -> None:
        # What is left of a body that was not read would be taken for a request.
        ends = self._is_reading or self._is_ending or self._server.ends_after(exchange, self)
        self.exchange = None
        self._used_s = self._loop.time()
        try:
            message = _message(exchange, body, ends=ends)
            self._transport.write(message)
            self._server.log(exchange, self.peer, len(message))
        except Exception:
            # Nobody shall wait for what does not come.
            self._transport.abort()
            raise
        if ends:
            self._buffer = b""
            self._transport.close()
        elif self._buffer:
            # Not now: others have their turn, and what calls this is in the middle of something.
            self._loop.call_soon(self._advance)

    def _close_if_idle(self) -> None:
        left_s = IDLE_S if self.exchange else self._used_s + IDLE_S - self._loop.time()
        if left_s <= 0 and self._is_writable:
            self._transport.close()
        elif left_s <= 0:
            # Who does not read its answers would keep it open for ever.
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(left_s, self._close_if_idle)

    def _leave(self) -> None:
        self._timer.cancel()
        self._server.connections.discard(self)


def _message(exchange: Exchange, body: bytes, *, ends: bool) -> bytes:
    http = exchange.head.http
    headers = "".join([f"{name}: {value}\r\n" for name, value in exchange.headers.items()])
    head = (
        f"HTTP/{http} {_status(exchange.status)}\r\nContent-Type: application/json\r\n{headers}"
        f"X-Request-Id: {exchange.request_id}\r\nContent-Length: {len(body)}\r\n"
        f"Date: {_date(int(time.time()))}\r\nServer: {SERVER_SOFTWARE}\r\n"
    )
    return (head + CONNECTION.get((http, ends), "") + "\r\n").encode() + body


@lru_cache(maxsize=64)
def _status(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)

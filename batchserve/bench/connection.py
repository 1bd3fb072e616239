"""One connection of HTTP/1.1, with one request at a time.

A client library would cost more than many a server: here, an answer takes two calls of the event
loop, and llhttp (https://github.com/nodejs/llhttp) reads it.
"""

import asyncio
from typing import Any, Protocol

import httptools

from batchserve.bench.tally import MOST_KEPT

SUCCESS = range(200, 300)
INFORMATIONAL = range(100, 200)
END, TIMING, BATCH_SIZE = "end", "timing", "batch size"
HEADERS = {
    b"content-length": END,
    b"transfer-encoding": END,
    b"server-timing": TIMING,
    b"x-batch-size": BATCH_SIZE,
}
CLOSED, RESET = "connection closed", "connection reset"


class Exchange:
    """A request on its way.

    Attributes:
        wire: its bytes.
        meant_s: when it was meant to be sent, on the monotonic clock.
        sent_s: when it was.
    """

    __slots__ = ("meant_s", "sent_s", "wire")

    def __init__(self, wire: bytes, meant_s: float, sent_s: float) -> None:
        self.wire = wire
        self.meant_s = meant_s
        self.sent_s = sent_s


class Owner(Protocol):
    """Whoever gives requests to connections."""

    def answered(self, connection: "Connection", exchange: Exchange) -> None:
        """Take an answer from the connection's attributes; it may be given the next request."""

    def failed(self, connection: "Connection", exchange: Exchange | None, reason: str) -> None:
        """Forget the connection, which is closed, and know that the request has no answer."""


class Connection(asyncio.Protocol):
    """Sends a request, and reads its answer.

    Attributes:
        exchange: what is in progress.
        status, batch_size, timing, body: of the last answer; the body only if it is no success.
        keeps_alive: whether another request can follow.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self._forget()

    def _forget(self) -> None:
        self.status = 0
        self.batch_size = 0
        self.timing = b""
        self.body = b""
        self._has_end = False
        self._complete = False
        self.keeps_alive = False

    def start(self, exchange: Exchange) -> None:
        """Send a request; the one before is answered."""
        self.exchange = exchange
        self._forget()
        if self._transport is None:
            self.abort(CLOSED)
        else:
            self._transport.write(exchange.wire)

    def abort(self, reason: str) -> None:
        """Close the connection, and with it what is in progress."""
        exchange, self.exchange = self.exchange, None
        if self._transport is not None:
            self._transport.abort()
        self._owner.failed(self, exchange, reason)

    def close(self) -> None:
        """Close the connection, which is idle."""
        self.exchange = None
        if self._transport is not None:
            self._transport.close()

    # What the event loop calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What comes after a last answer does not matter.
            if not self._complete and self.exchange is not None:
                self.abort(f"not HTTP: {error}")
                return
        if self._complete and self.exchange is not None:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.exchange is not None and self.status and not self._has_end and error is None:
            # Its end is that of the connection.
            self._finish()
            return
        exchange, self.exchange = self.exchange, None
        reset = isinstance(error, ConnectionResetError | BrokenPipeError)
        self._owner.failed(self, exchange, RESET if reset else CLOSED)

    def _finish(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if not self.keeps_alive:
            self.close()
        self._owner.answered(self, exchange)

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        known = HEADERS.get(name.lower())
        if known is END:
            self._has_end = True
        elif known is TIMING:
            self.timing = value
        elif known is BATCH_SIZE:
            self.batch_size = int(value) if value.isdigit() else 0

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        if self.status not in SUCCESS and len(self.body) < MOST_KEPT:
            self.body += part

    def on_message_complete(self) -> None:
        if self.status in INFORMATIONAL:
            self._forget()
        else:
            self._complete = True
            self.keeps_alive = self._parser.should_keep_alive()

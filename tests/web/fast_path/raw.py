"""Requests and answers as bytes, and a transport that a test looks into."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from batchserve.web.fast_path.connection import Connection
from batchserve.web.fast_path.server import FastPath
from tests.web.clients import Client


@dataclass(frozen=True)
class Answer:
    """An answer, as it came."""

    status: int
    headers: dict[str, str]
    body: Any
    http: str = "HTTP/1.1"


def request(
    body: bytes = b'{"input": [1.0]}',
    path: str = "/predict",
    method: str = "POST",
    http: str = "HTTP/1.1",
    **headers: str,
) -> bytes:
    """Return a request; `X_Priority="bulk"` is a header."""
    stated = {"Host": "here", "Content-Type": "application/json", "Content-Length": str(len(body))}
    stated |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in stated.items())
    return f"{method} {path} {http}\r\n{lines}\r\n".encode() + body


def number(value: float, **headers: str) -> bytes:
    """Return a request with one number."""
    return request(json.dumps({"input": [value]}).encode(), **headers)


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.rstrip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    is_json = headers.get("Content-Type", "").startswith("application/json")
    http, number, *_ = status.split()
    return Answer(int(number), headers, json.loads(body) if is_json and body else body, http)


async def talk(client: Client, *pieces: bytes, count: int = 1) -> list[Answer]:
    """Send pieces on one connection, each once the server has read the last; read the answers."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        for _ in range(10):
            await asyncio.sleep(0)
    answers = [await read_answer(reader) for _ in range(count)]
    writer.close()
    await writer.wait_closed()
    return answers


def runner_of(client: Client) -> web.AppRunner:
    """Return what runs the server."""
    runner = client.server.runner
    assert isinstance(runner, web.AppRunner)
    return runner


def fast_path_of(client: Client) -> FastPath:
    """Return what makes the connections."""
    server: Any = runner_of(client).server
    assert isinstance(server, FastPath)
    return server


class Wire(asyncio.Transport):
    """A transport with nobody at the other end."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.sent = b""
        self.is_reading_ = True
        self.closed = ""
        self.protocol: Any = None

    def connect(self, connection: Connection) -> Connection:
        """Have a connection take this for its transport."""
        self.protocol = connection
        connection.connection_made(self)
        return connection

    def hang_up(self) -> None:
        """Tell the connection that it is lost."""
        self.closed = "lost"
        self.protocol.connection_lost(None)

    @property
    def statuses(self) -> list[int]:
        """Of the answers that were sent."""
        return [int(part[:3]) for part in self.sent.split(b"HTTP/1.1 ")[1:]]

    # What connections call.

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = self.closed or "closed"

    def abort(self) -> None:
        self.closed = "aborted"

    def is_closing(self) -> bool:
        return bool(self.closed)

    def pause_reading(self) -> None:
        self.is_reading_ = False

    def resume_reading(self) -> None:
        self.is_reading_ = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

"""A server for tests that only speak to its socket, and what each of its answers must be like."""

import asyncio
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

from batchserve.app import build_app
from batchserve.config import Config
from tests.conftest import ROOT

# More of them look longer: FUZZ_EXAMPLES=5000 pytest tests/fuzz
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))
PATIENCE_S = 10.0
START_S = 60.0
# What would tell a client about our insides.
LEAKS = re.compile(rb'Traceback|File "|\.py\b|site-packages|/usr/|/root/|' + str(ROOT).encode())
DOCUMENTED = {
    (int(status), code)
    for status, code in re.findall(
        r"^\| (\d{3}) \| `(\w+)` \|",
        (ROOT / "docs/http.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Live:
    """A server on a thread of this process."""

    host: str
    port: int

    @property
    def base(self) -> str:
        return f"http://{self.host}:{self.port}"

    def exchange(self, sent: bytes, think_s: float = PATIENCE_S) -> bytes:
        """Send bytes; return what comes until the server closes.

        Args:
            sent: a request, or anything else.
            think_s: if nothing has come by then, the server may wait for more, and is told that
                this is all.

        Raises:
            TimeoutError: it does not even close then; the connection hangs.
        """
        received: list[bytes] = []
        with socket.create_connection((self.host, self.port), PATIENCE_S) as sock:
            # It may close before it has read everything.
            with suppress(ConnectionError):
                sock.sendall(sent)
                sock.settimeout(think_s)
                try:
                    received += iter(lambda: sock.recv(65536), b"")
                except TimeoutError:
                    sock.settimeout(PATIENCE_S)
                    sock.shutdown(socket.SHUT_WR)
                    received += iter(lambda: sock.recv(65536), b"")
            return b"".join(received)

    def request(self, head: bytes, body: bytes = b"") -> Answer | None:
        """Send one request; return its answer, if there is one to be read."""
        received = self.exchange(head + b"\r\nConnection: close\r\n\r\n" + body)
        return parse(received) if received else None

    def check_ready(self) -> None:
        answer = self.request(b"GET /readyz HTTP/1.1\r\nHost: x")
        assert answer is not None
        assert answer.status == 200


def parse(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), headers, body)


def check(answer: Answer) -> None:
    """Hold an answer against the contract."""
    assert not LEAKS.search(answer.body), answer
    if answer.status == 400 and "x-request-id" not in answer.headers:
        # What is no HTTP, aiohttp refuses before any code of ours.
        assert answer.headers["content-type"].startswith("text/plain"), answer
        return
    assert answer.headers["x-request-id"], answer
    assert int(answer.headers["content-length"]) == len(answer.body), answer
    if answer.status == 200:
        return
    assert answer.headers["content-type"].startswith("application/json"), answer
    body = json.loads(answer.body)
    assert set(body) == {"error", "code"}, answer
    assert body["error"], answer
    assert (answer.status, body["code"]) in DOCUMENTED, answer
    assert body["code"] != "internal_error", answer
    if answer.status == 503:
        assert int(answer.headers["retry-after"]) >= 1, answer


@contextmanager
def live(config: Config) -> Iterator[Live]:
    """Serve a config on a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server")
    thread.start()
    try:
        runner, served = asyncio.run_coroutine_threadsafe(_start(config), loop).result(START_S)
        yield served
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(START_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(config: Config) -> tuple[web.AppRunner, Live]:
    # As batchserve.app does.
    runner = web.AppRunner(await build_app(config), handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return runner, Live(host, port)

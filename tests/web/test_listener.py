"""Workers that accept connections on one socket; here, two in one process."""

import asyncio
import copy
import errno
import logging
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchserve.crew import Crew
from batchserve.web import listener as module
from batchserve.web.balance import PATIENCE_S
from batchserve.web.listener import Listener, count_waiting, somebody_waits
from tests.web.clients import until


class Greeting(asyncio.Protocol):
    """Says who has accepted it."""

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.worker.connections.add(self)
        transport.write(self.worker.name)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)


@dataclass
class Worker:
    """What a worker has of its crew, and its connections."""

    name: bytes
    crew: Crew
    sock: socket.socket
    tls: ssl.SSLContext | None = None
    connections: set[Greeting] = field(default_factory=set)

    def listen(self) -> Listener:
        listener = Listener(
            self.sock,
            lambda: Greeting(self),
            self.tls,
            self.crew,
            lambda: len(self.connections) + len(listener.opening),
        )
        return listener


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        master = Crew()
        found = []
        for name in (b"a", b"b"):
            master.reserve()
            found.append(Worker(name, copy.copy(master), sock.dup()))
        yield found
        for worker in found:
            worker.sock.close()


async def connect(worker: Worker, count: int) -> tuple[list[asyncio.StreamWriter], bytes]:
    """Connect so often, and return who has accepted each, in order of the alphabet."""
    address = worker.sock.getsockname()
    opened = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(count)))
    names = [await reader.readexactly(1) for reader, _ in opened]
    return [writer for _, writer in opened], b"".join(sorted(names))


async def connect_one(workers: list[Worker]) -> tuple[list[asyncio.StreamWriter], bytes]:
    """Connect, and return once the connection counts."""
    before = sum(len(worker.connections) for worker in workers)
    client, name = await connect(workers[0], 1)
    await until(lambda: sum(len(worker.connections) for worker in workers) > before)
    return client, name


async def close(clients: list[asyncio.StreamWriter]) -> None:
    for writer in clients:
        writer.close()
        await writer.wait_closed()


async def test_connections_at_once_are_shared_out(workers):
    listeners = [worker.listen() for worker in workers]
    clients, names = await connect(workers[0], 32)
    assert 14 <= names.count(b"a") <= 18
    await close(clients)
    for listener in listeners:
        listener.close()


async def test_connections_one_after_the_other_are_shared_out(workers):
    listeners = [worker.listen() for worker in workers]
    clients = []
    for _ in range(10):
        clients += (await connect_one(workers))[0]
    assert [len(worker.connections) for worker in workers] == [5, 5]
    await close(clients)
    for listener in listeners:
        listener.close()


async def test_whoever_begins_to_listen_later_gets_what_comes(workers):
    listeners = [workers[0].listen()]
    clients, names = await connect(workers[0], 6)
    assert names == b"aaaaaa"
    listeners.append(workers[1].listen())
    for _ in range(5):
        more, name = await connect_one(workers)
        clients += more
        assert name == b"b"
    await close(clients)
    for listener in listeners:
        listener.close()


async def test_for_a_worker_that_is_stuck_one_connection_waits_and_no_more(workers, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", PATIENCE_S)
    listener = workers[0].listen()
    pauses = []
    pause = listener._pause

    def note(seconds: float) -> None:
        pauses.append(seconds)
        pause(seconds)

    monkeypatch.setattr(listener, "_pause", note)
    clients, _ = await connect_one(workers)
    workers[1].crew.look(0)
    more, names = await connect(workers[0], 8)
    assert names == 8 * b"a"
    # The clocks of timers are not the finest.
    assert pauses in ([PATIENCE_S], 2 * [PATIENCE_S])
    await close(clients + more)
    listener.close()


async def test_who_is_to_accept_all_waits_for_nobody(workers, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 3600.0)
    listener = workers[0].listen()
    clients, _ = await connect(workers[0], 1)
    workers[1].crew.look(0)
    waiting = asyncio.create_task(connect(workers[0], 3))
    await until(lambda: listener._timer is not None)
    listener.accept_all()
    more, names = await waiting
    assert names == b"aaa"
    await close(clients + more)
    listener.close()


async def test_after_the_end_nobody_is_accepted_and_those_who_were_stay(workers):
    listener = workers[0].listen()
    clients, _ = await connect(workers[0], 2)
    listener.close()
    listener.close()
    assert listener.sockets == ()
    with socket.create_connection(workers[1].sock.getsockname()):
        assert somebody_waits(workers[1].sock)
        await asyncio.sleep(0.01)
        assert len(workers[0].connections) == 2
    await close(clients)


class OutOfFiles:
    """A socket that cannot accept, for as often as it is told."""

    def __init__(self, sock: socket.socket, times: int) -> None:
        self.sock, self.times = sock, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def accept(self):
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.sock.accept()


async def test_who_waits_is_counted(workers):
    sock = workers[0].sock
    assert count_waiting(sock) == 1
    clients = [socket.create_connection(sock.getsockname()) for _ in range(3)]
    assert count_waiting(sock) == 3
    for client in clients:
        client.close()


def test_of_a_unix_socket_the_system_does_not_tell_who_waits(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        assert count_waiting(sock) == 1


async def test_without_file_descriptors_it_tries_again(workers, monkeypatch, caplog):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    workers[0].sock = OutOfFiles(workers[0].sock, 2)
    listener = workers[0].listen()
    clients, names = await connect(workers[0], 1)
    assert names == b"a"
    assert caplog.text.count("Too many open files") == 2
    assert listener.is_able
    await close(clients)
    listener.close()


async def test_a_worker_without_file_descriptors_is_not_waited_for(workers):
    workers[0].sock = OutOfFiles(workers[0].sock, 1)
    workers[0].crew.look(0)
    listener = workers[0].listen()
    with socket.create_connection(workers[0].sock.getsockname()):
        await until(lambda: not listener.is_able)
        assert workers[1].crew.others() == {}
    listener.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a file with a certificate for localhost, and its key."""
    both = tmp_path / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    both.write_bytes((tmp_path / "cert.pem").read_bytes() + (tmp_path / "key.pem").read_bytes())
    return both


async def test_a_client_that_does_not_speak_tls_harms_nobody(workers, certificate, caplog):
    caplog.set_level(logging.DEBUG)
    workers[0].tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    workers[0].tls.load_cert_chain(certificate)
    listener = workers[0].listen()
    host, port = workers[0].sock.getsockname()
    _, stranger = await asyncio.open_connection(host, port)
    await until(lambda: listener.opening)
    stranger.write(b"GET / HTTP/1.1\r\n\r\n")
    await until(lambda: "a connection could not be opened" in caplog.text)
    trusting = ssl.create_default_context(cafile=certificate)
    reader, client = await asyncio.open_connection(
        host, port, ssl=trusting, server_hostname="localhost"
    )
    assert await reader.readexactly(1) == b"a"
    assert not listener.opening
    await close([client])
    stranger.close()
    listener.close()


async def test_a_connection_that_is_never_opened_does_not_outlive_the_server(workers, certificate):
    workers[0].tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    workers[0].tls.load_cert_chain(certificate)
    listener = workers[0].listen()
    _, silent = await asyncio.open_connection(*workers[0].sock.getsockname())
    await until(lambda: listener.opening)
    listener.close()
    listener.abandon()
    await until(lambda: not listener.opening)
    silent.close()

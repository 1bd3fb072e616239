"""systemd holds the address, starts the server at the first connection, and is told of it."""

import os
import shutil
import signal
import socket
from pathlib import Path

import psutil
import pytest

from batchserve import systemd
from tests.e2e.conftest import BIN, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.e2e

DOUBLE = {"name": "double", "source": "tests.models:Double", "device": "cpu"}


def test_the_first_connection_starts_it_and_waits_for_its_answer(
    launch, tmp_path: Path, monkeypatch
):
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        message = "systemd-socket-activate is not installed (Debian: apt-get install systemd)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    notify = tmp_path / "notify"
    listen = f"127.0.0.1:{free_port()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notify))
        manager.setblocking(False)
        server = launch(
            DOUBLE,
            command=[
                *(activate, "--listen", listen, f"--setenv={systemd.NOTIFY}={notify}"),
                *("--setenv=PYTHONPATH", "--setenv=TMPDIR", "--setenv=PATH"),
                *(str(BIN / "batchserve"), "serve"),
            ],
            wait=False,
        )
        server.base = f"http://{listen}"
        wait_for(lambda: is_listening(listen), server)
        assert "Starting gunicorn" not in server.output()
        assert server.post(json={"input": [1]}).json()["output"] == [2.0]
        assert manager.recv(100) == b"READY=1\nSTATUS=serving double"

        old = server.workers()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not any(worker.is_running() for worker in old), server)
        assert server.post(json={"input": [2]}).json()["output"] == [4.0]
        assert server.stop() == 0
    assert f"on http://{listen};" in server.output()


def is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return any(
        connection.laddr == (host, int(port)) and connection.status == psutil.CONN_LISTEN
        for connection in psutil.net_connections("tcp")
    )

"""What systemd is told, and when."""

import os
import socket
from collections.abc import Iterator

import pytest

from batchserve import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch) -> Iterator[socket.socket]:
    """Return the socket on which systemd would listen."""
    name = f"{tmp_path}/notify" if request.param == "path" else f"@batchserve-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        monkeypatch.setenv(systemd.NOTIFY, name)
        monkeypatch.setenv(systemd.HIDDEN, "")
        yield sock


def test_it_is_told_by_a_worker_and_not_by_gunicorn(manager):
    systemd.take_over()
    assert systemd.NOTIFY not in os.environ
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    systemd.announce_ready("serving m")
    assert manager.recv(100) == b"READY=1\nSTATUS=serving m"


def test_without_systemd_nobody_is_told(monkeypatch):
    monkeypatch.delenv(systemd.NOTIFY, raising=False)
    monkeypatch.delenv(systemd.HIDDEN, raising=False)
    systemd.take_over()
    systemd.announce_ready("serving m")
    assert systemd.HIDDEN not in os.environ

"""Ports for servers that are told theirs, which two tests at a time never share."""

import os
import random
import socket
from contextlib import suppress

PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# Below those that Linux gives to whoever asks for any, connections among them.
PORTS = range(10_000 + PROCESS, 32_000, PROCESSES)


def free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port

"""Tell systemd when the server can answer.

Gunicorn would say so as soon as it listens, long before the models are loaded; then a start that
fails would look like one that succeeded. The protocol: man sd_notify(3).
"""

import os
import socket

NOTIFY = "NOTIFY_SOCKET"
# Where Gunicorn does not look for it; an environment, because SIGUSR2 has the master start anew.
HIDDEN = "NOTIFY_SOCKET_WHEN_READY"


def take_over() -> None:
    """In the master, before Gunicorn would tell: leave that to the workers."""
    if address := os.environ.pop(NOTIFY, ""):
        os.environ[HIDDEN] = address


def announce_ready(status: str) -> None:
    """In a worker that accepts connections: the server has started, if it had not."""
    address = os.environ.get(HIDDEN, "")
    if not address:
        return
    # A leading @ stands for the zero byte of an abstract name.
    name = address.replace("@", "\0", 1) if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(f"READY=1\nSTATUS={status}".encode(), name)

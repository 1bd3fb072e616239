"""Starts a server with all its processes, and leaves none behind."""

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

PATIENCE_S = 15
SHOWN = 12


class Started:
    """A command that runs, and its log."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def last_lines(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-SHOWN:])

    def stop(self) -> None:
        """Ask it to end, and kill whatever is left of it."""
        family = family_of(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)
        _, left = psutil.wait_procs(family, timeout=1)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def family_of(pid: int) -> list[psutil.Process]:
    """Return a process and all that descend from it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port

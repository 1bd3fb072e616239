"""For benchmarks: a real server, Gunicorn with its workers, and what it costs."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
PATIENCE_S = 120


class Server:
    """A server of one config, and its log."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.base = f"http://{config['server']['bind']}"
        self.log = folder / "server.log"
        self.workers_wanted: int = config["server"].get("workers", 1)
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        # What the models need, and what a server that is killed leaves behind.
        paths = [str(HERE), str(HERE.parent)]
        own = {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(folder)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "batchserve", "serve", path],
                env={**os.environ, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> None:
        """Return when every worker has loaded its models."""
        give_up_s = time.monotonic() + PATIENCE_S
        while self.output().count(" serving ") < self.workers_wanted:
            if self.process.poll() is not None or time.monotonic() > give_up_s:
                sys.exit(f"the server could not start:\n{self.output()}")
            time.sleep(0.05)
        self.get("/readyz")

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.base + path, timeout=PATIENCE_S) as response:
            text: str = response.read().decode()
            return text

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def cpu_seconds(self) -> tuple[float, float]:
        """Return what the workers' main threads, and all their other threads, have used so far."""
        main_s = other_s = 0.0
        for worker in self.workers():
            for thread in worker.threads():
                used_s = thread.user_time + thread.system_time
                if thread.id == worker.pid:
                    main_s += used_s
                else:
                    other_s += used_s
        return main_s, other_s

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            for worker in self.workers():
                worker.kill()
            self.process.kill()
            self.process.wait()


@contextmanager
def serving(config: dict[str, Any], folder: Path) -> Iterator[Server]:
    """Start a server on a free port, and stop it in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    bind = f"127.0.0.1:{free_port()}"
    server = Server({**config, "server": {**config["server"], "bind": bind}}, folder)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port

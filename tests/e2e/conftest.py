"""Real servers: Gunicorn with aiohttp's UVLoop workers, as users start them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from tests.conftest import ROOT
from tests.ports import free_port

BIN = Path(sys.executable).parent
PATIENCE_S = 90
GUNICORN = [str(BIN / "gunicorn"), "-c", str(ROOT / "gunicorn.conf.py")]
APP = "batchserve.app:create_app"


@dataclass
class Server:
    """A server process and what it has printed."""

    process: subprocess.Popen[bytes]
    log: Path
    base: str
    session: requests.Session = field(default_factory=requests.Session)

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def post(self, path: str = "/predict", **kwargs: Any) -> requests.Response:
        # A connection of its own: any worker may answer.
        return requests.post(self.base + path, timeout=PATIENCE_S, **kwargs)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return requests.get(self.base + path, timeout=PATIENCE_S, **kwargs)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def wait_ready(self, workers: int = 1) -> None:
        """Return when every worker has loaded its models."""
        wait_for(lambda: self.output().count(" serving ") >= workers, self)

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(PATIENCE_S)


def wait_for(condition: Callable[[], bool], server: Server) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert server.process.poll() is None, f"the server has ended:\n{server.output()}"
        assert time.monotonic() < give_up, f"waited in vain:\n{server.output()}"
        # Another process on the real clock: there is nothing to await.
        time.sleep(0.05)


def start(command: list[str], folder: Path, base: str = "", **environ: str) -> Server:
    log = folder / "server.log"
    # What a killed server leaves behind goes with the test's folder.
    own = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    env = {**os.environ, **own, **environ}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=file, stderr=subprocess.STDOUT
        )
    return Server(process, log, base)


StartServer = Callable[..., Server]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[StartServer]:
    """Return a function that starts a server on a free port, and end it after the test."""
    servers: list[Server] = []

    def run(
        *models: dict[str, Any],
        server: dict[str, Any] | None = None,
        command: list[str] | None = None,
        wait: bool = True,
    ) -> Server:
        bind = f"127.0.0.1:{free_port()}"
        settings: dict[str, Any] = {"bind": bind, "grace_seconds": 0, **(server or {})}
        config = {"server": settings, "models": list(models)}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        command = command or [str(BIN / "batchserve"), "serve"]
        servers.append(start(command, tmp_path, f"http://{bind}"))
        if wait:
            servers[-1].wait_ready(settings.get("workers", 1))
        return servers[-1]

    yield run
    for server in servers:
        kill(server)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped config, with two workers."""
    bind = f"127.0.0.1:{free_port()}"
    server = start(
        [*GUNICORN, APP],
        tmp_path_factory.mktemp("shipped"),
        f"http://{bind}",
        BATCHSERVE_CONFIG=str(ROOT / "config.yaml"),
        BATCHSERVE_SERVER__BIND=bind,
        BATCHSERVE_SERVER__WORKERS="2",
    )
    server.wait_ready(2)
    yield server
    kill(server)


def kill(server: Server) -> None:
    if server.process.poll() is None:
        family = [*server.workers(), psutil.Process(server.process.pid)]
        for process in family:
            process.kill()
        psutil.wait_procs(family)
    server.process.wait()


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], str]:
    """Return a function that finds wrk or ab; where CI runs, they must be there."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            message = f"{name} is not installed (Debian: apt-get install wrk apache2-utils)"
            assert "CI" not in os.environ, message
            pytest.skip(message)
        return path

    return find

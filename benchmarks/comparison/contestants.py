"""A server that runs, checked and ready to be measured; and one measurement of it."""

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson
import requests

from comparison.environments import NotInstalled, python_of
from comparison.processes import Started, free_port
from comparison.samples import Reference
from comparison.servers import Job, Server
from comparison.usage import Share, cpu_by_process, memory_mb, shares
from comparison.wrk import Load, run_wrk

# Compiling takes minutes.
START_S = 600
POLL_S = 0.2
ANSWER_S = 30
# A server that uses less of a core has started; some have a second worker that compiles longer.
IDLE, LOOK_S, SETTLE_S = 0.5, 1.0, 120.0
WARM_CLIENTS = 16


class Failed(Exception):
    """A server takes no part; the message says why, with the last lines of its log."""


@dataclass(frozen=True)
class Visit:
    """One measurement: a server, under so many clients, for some seconds."""

    server: str
    workload: str
    clients: int
    turn: int
    rate: float
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    non_2xx: int = 0
    socket_errors: int = 0
    batch_size: float | None = None
    memory_mb: float | None = None
    cpu_us: list[Share] = field(default_factory=list)


class Contestant(Protocol):
    """Somebody whose turn it is in each round."""

    name: str

    def visit(self, clients: int, turn: int, seconds: float) -> Visit: ...

    def stop(self) -> None: ...


class Running:
    """A server that was started for a workload.

    Args:
        server: which.
        workload: for what.
        folder: an empty one, for its files.

    Raises:
        Failed: it could not be installed or started, or its answers are wrong.
    """

    def __init__(self, server: Server, workload: str, folder: Path) -> None:
        self.name = server.name
        self._server = server
        self._job = _job(server, workload, folder)
        self._body = folder / "body"
        try:
            server.prepare(self._job)
        except subprocess.CalledProcessError as error:
            raise Failed(f"it cannot be prepared: {error.stderr}") from None
        self._started = Started(
            server.command(self._job), server.environment(self._job), self._job.folder
        )

    def make_ready(self, reference: Reference) -> None:
        """Wait until all its processes are there, compare several with the model's, and warm up.

        Raises:
            Failed: there is none, or one is wrong.
        """
        try:
            self._wait(reference.payloads[0])
            self._settle()
            if self._server.checked:
                self._check(reference)
            self._body.write_bytes(self._server.body(self._job.workload, reference.payloads[0]))
            self._load(WARM_CLIENTS, self._server.warm_s)
        except (Failed, requests.RequestException, ValueError) as error:
            raise Failed(f"{error}\n{self._started.last_lines()}") from None

    def _wait(self, payload: Any) -> None:
        give_up_s = time.monotonic() + START_S
        while True:
            if self._started.has_ended():
                raise Failed("it ended while it started")
            if time.monotonic() > give_up_s:
                raise Failed(f"no answer after {START_S} s")
            try:
                if self._post(payload).ok:
                    return
            except (requests.ConnectionError, requests.Timeout):
                pass
            time.sleep(POLL_S)

    def _settle(self) -> None:
        """Wait for the processes that are not ready when the first one answers."""
        give_up_s = time.monotonic() + SETTLE_S
        while time.monotonic() < give_up_s:
            before = self._cpu_s()
            time.sleep(LOOK_S)
            if self._cpu_s() - before < IDLE * LOOK_S:
                return

    def _cpu_s(self) -> float:
        used = cpu_by_process(self._started.process.pid).values()
        return sum(cpu.main_s + cpu.others_s for cpu in used)

    def _check(self, reference: Reference) -> None:
        tolerance = reference.tolerance(tuned=self._server.tuned)
        for place, payload in enumerate(reference.payloads):
            response = self._post(payload)
            response.raise_for_status()
            output = self._server.output(orjson.loads(response.content))
            difference = reference.difference(place, output)
            if not difference <= tolerance:
                raise Failed(f"answer {place} is off by {difference:g}, more than {tolerance:g}")

    def _post(self, payload: Any) -> requests.Response:
        return requests.post(
            self._url,
            data=self._server.body(self._job.workload, payload),
            headers={"Content-Type": self._server.content_type},
            timeout=ANSWER_S,
        )

    @property
    def _url(self) -> str:
        return self._job.base + self._server.path

    def _load(self, clients: int, seconds: float) -> Load:
        return run_wrk(self._url, self._body, self._server.content_type, clients, seconds)

    def visit(self, clients: int, turn: int, seconds: float) -> Visit:
        """Measure.

        Raises:
            Failed: it is not there any more.
        """
        try:
            return self._measured(clients, turn, seconds)
        except (subprocess.CalledProcessError, requests.RequestException) as error:
            raise Failed(f"{error}\n{self._started.last_lines()}") from None

    def _measured(self, clients: int, turn: int, seconds: float) -> Visit:
        pid = self._started.process.pid
        count, cpu = self._server.count(self._job), cpu_by_process(pid)
        load = self._load(clients, seconds)
        used = shares(cpu, cpu_by_process(pid), max(1, load.requests))
        return Visit(
            server=self.name,
            workload=self._job.workload,
            clients=clients,
            turn=turn,
            rate=load.rate,
            p50_ms=load.p50_ms,
            p90_ms=load.p90_ms,
            p99_ms=load.p99_ms,
            non_2xx=load.non_2xx,
            socket_errors=load.socket_errors,
            batch_size=(self._server.count(self._job) - count).batch_size,
            memory_mb=memory_mb(pid),
            cpu_us=used,
        )

    def stop(self) -> None:
        self._started.stop()


def _job(server: Server, workload: str, folder: Path) -> Job:
    try:
        python = python_of(server.peer)
    except NotInstalled as error:
        raise Failed(f"it cannot be installed: {error}") from None
    job = Job(workload, free_port(), folder, python)
    job.passes.mkdir(parents=True)
    return job

"""What a server in the comparison is: how to start it, what to send it, how to read its answer."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from comparison import passes, workloads
from comparison.environments import CACHE
from comparison.passes import Count

HERE = Path(__file__).parents[2]
CORES = os.cpu_count() or 1
ALL = ("tiny", "mlp", "image")


@dataclass(frozen=True)
class Job:
    """One start of a server: for which workload, where, and with which Python."""

    workload: str
    port: int
    folder: Path
    python: Path

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def passes(self) -> Path:
        return self.folder / "passes"


@dataclass(frozen=True)
class Batching:
    """The largest batch, and how long a server waits for it to fill."""

    size: int
    wait_ms: int


class Server(ABC):
    """A server and its settings.

    Attributes:
        name: what the command line calls it.
        title: what tables and plots call it.
        peer: whose environment it runs in, by its file of requirements; None: ours.
        package: whose version is told with the results.
        processes: that run the model; each gets its share of the cores as torch's threads.
        workloads: what it can be given.
        kind: ours, a peer, or a yardstick that serves no model.
        tuned: whether the model may answer a little differently.
        checked: whether its answers are the model's.
        warm_s: how long it is loaded before it is measured.
    """

    name: str
    title: str
    package: str
    peer: str | None = None
    kind: Literal["ours", "peer", "yardstick"] = "peer"
    processes = 1
    workloads: tuple[str, ...] = ALL
    tuned = False
    checked = True
    warm_s = 2
    path = "/predict"
    content_type = "application/json"

    @abstractmethod
    def command(self, job: Job) -> list[str]:
        """Return the command, which stays in the foreground."""

    def prepare(self, job: Job) -> None:  # noqa: B027 - most have nothing to write
        """Write what the command reads, into the job's folder."""

    def batching(self, workload: str) -> Batching | None:
        """Return what a server must be told of batches; None: it is not told, or has none."""
        return None

    def environment(self, job: Job) -> dict[str, str]:
        threads = str(max(1, CORES // self.processes))
        variables = {
            "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
            "PYTHONUNBUFFERED": "1",
            "PATH": os.pathsep.join((str(job.python.parent), os.environ["PATH"])),
            "TMPDIR": str(job.folder),
            "OMP_NUM_THREADS": threads,
            passes.FOLDER: str(job.passes),
            workloads.WORKLOAD: job.workload,
            workloads.THREADS: threads,
            workloads.PORT: str(job.port),
        }
        if self.tuned:
            variables[workloads.TUNED] = "1"
            # What was compiled once is there at the next start.
            variables["TORCHINDUCTOR_CACHE_DIR"] = str(CACHE / "inductor")
        if batching := self.batching(job.workload):
            variables[workloads.BATCH_SIZE] = str(batching.size)
            variables[workloads.WAIT_MS] = str(batching.wait_ms)
        return variables

    def body(self, workload: str, payload: Any) -> bytes:
        return orjson.dumps({"input": payload})

    def output(self, answer: Any) -> Any:
        """Return the output for the one payload, from the parsed answer."""
        return answer["output"]

    def count(self, job: Job) -> Count:
        """Return how many passes it has made of how many items."""
        return passes.counted(job.passes)

    def settings(self, workload: str) -> dict[str, Any]:
        """Return what is told with the results."""
        batching = self.batching(workload)
        return {
            "processes": self.processes,
            **({"batch_size": batching.size, "wait_ms": batching.wait_ms} if batching else {}),
        }


def gunicorn(job: Job, application: str, *options: str) -> list[str]:
    """Return Gunicorn's command. Its access log is off unless it is asked for."""
    bind = f"127.0.0.1:{job.port}"
    # The control socket would be one for all of them.
    quiet = ("--no-control-socket", *options)
    return [str(job.python), "-m", "gunicorn", "--bind", bind, *quiet, application]


def module(job: Job, name: str) -> list[str]:
    return [str(job.python), "-m", f"comparison.services.{name}"]

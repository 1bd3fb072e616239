"""Mosec: a front end in Rust, a Python process for the model."""

from comparison.servers.base import Batching, Job, Server, module
from comparison.workloads import TUNED_BATCH


class Mosec(Server):
    """One worker: two halve the batches, and share the cores badly. 1 ms is its shortest wait."""

    package = peer = "mosec"

    def __init__(self, *, tuned: bool = False) -> None:
        self.tuned = tuned
        self.name = "mosec-tuned" if tuned else "mosec"
        self.title = "Mosec, the same compiled model" if tuned else "Mosec"
        self.workloads = ("image",) if tuned else self.workloads

    def batching(self, workload: str) -> Batching:
        if self.tuned:
            return Batching(TUNED_BATCH, 1)
        return Batching(16, 1) if workload == "image" else Batching(64, 1)

    def command(self, job: Job) -> list[str]:
        options = ("--address", "127.0.0.1", "--port", str(job.port), "--log-level", "warning")
        # Its queue and its patience must not refuse 256 clients.
        limits = ("--capacity", "4096", "--timeout", "60000", "--path", str(job.folder / "ipc"))
        return [*module(job, "mosec"), *options, *limits]


SERVERS: list[Server] = [Mosec(), Mosec(tuned=True)]

"""LitServe: FastAPI, and a process for the model behind queues."""

from comparison.servers.base import Batching, Job, Server, module


class LitServe(Server):
    """One worker, the ZeroMQ queue (`fast_queue`), one API server, no access log."""

    name, title = "litserve", "LitServe"
    package = peer = "litserve"

    def batching(self, workload: str) -> Batching:
        return Batching(16, 1) if workload == "image" else Batching(64, 1)

    def command(self, job: Job) -> list[str]:
        return module(job, "litserve")


SERVERS: list[Server] = [LitServe()]

"""BentoML with its adaptive batching."""

from typing import Any

import orjson

from comparison.servers.base import Batching, Job, Server


class BentoML(Server):
    """One worker, without access log and metrics.

    `max_latency_ms` is what an answer may take: what is expected to take longer is refused, so it
    is generous here. The wait is found out by BentoML itself.
    """

    name, title = "bentoml", "BentoML"
    package = peer = "bentoml"

    def batching(self, workload: str) -> Batching:
        return Batching(16, 10_000) if workload == "image" else Batching(64, 10_000)

    def environment(self, job: Job) -> dict[str, str]:
        own = {"BENTOML_HOME": str(job.folder / "home"), "BENTOML_DO_NOT_TRACK": "True"}
        return {**super().environment(job), **own}

    def command(self, job: Job) -> list[str]:
        served = ["serve", "comparison.services.bentoml:Predictor"]
        bind = ["--host", "127.0.0.1", "--port", str(job.port)]
        return [str(job.python), "-m", "bentoml", *served, *bind]

    def body(self, workload: str, payload: Any) -> bytes:
        return orjson.dumps({"input": [payload]})

    def output(self, answer: Any) -> Any:
        return answer[0]


SERVERS: list[Server] = [BentoML()]

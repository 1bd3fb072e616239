"""batchserve: its defaults, and each line in which an entry differs from them."""

from typing import Any

import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from comparison.passes import Count
from comparison.servers.base import Job, Server
from comparison.workloads import TUNED_PRECISION

TUNED: dict[str, Any] = {"compile": True, "precision": TUNED_PRECISION}
SUM, COUNT = "batchserve_batch_size_sum", "batchserve_batch_size_count"
TIMEOUT_S = 30


class Batchserve(Server):
    """`batchserve serve`.

    Args:
        name: of this entry.
        title: of this entry.
        processes: `server.workers`.
        accesslog: `server.accesslog`; off, because it is off at the peers too.
        keys: of the model, beside those that every entry has.
        tuned: those keys let the model answer a little differently.
        workloads: for which this entry makes sense; None: all.
    """

    package = "batchserve"
    kind = "ours"

    def __init__(
        self,
        name: str,
        title: str,
        *,
        processes: int = 1,
        accesslog: bool = False,
        keys: dict[str, Any] | None = None,
        tuned: bool = False,
        workloads: tuple[str, ...] | None = None,
    ) -> None:
        self.name, self.title, self.processes = name, title, processes
        self.workloads = workloads or self.workloads
        self.tuned = tuned
        self._accesslog = accesslog
        self._keys = keys or {}

    def config(self, workload: str) -> dict[str, Any]:
        task = "image-classification" if workload == "image" else "tensor"
        model = {"name": workload, "source": f"comparison.workloads:{workload}", "task": task}
        return {
            "server": {
                "workers": self.processes,
                "accesslog": "-" if self._accesslog else None,
            },
            "models": [{**model, **self._keys}],
        }

    def prepare(self, job: Job) -> None:
        config = self.config(job.workload)
        config["server"]["bind"] = f"127.0.0.1:{job.port}"
        (job.folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def command(self, job: Job) -> list[str]:
        config = str(job.folder / "config.yaml")
        return [str(job.python), "-m", "batchserve.cli", "serve", config]

    def environment(self, job: Job) -> dict[str, str]:
        # It shares out the cores itself.
        return {
            name: value
            for name, value in super().environment(job).items()
            if name != "OMP_NUM_THREADS"
        }

    def count(self, job: Job) -> Count:
        text = requests.get(f"{job.base}/metrics", timeout=TIMEOUT_S).text
        found = {
            sample.name: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in (SUM, COUNT)
        }
        return Count(passes=found.get(COUNT, 0), items=found.get(SUM, 0))

    def settings(self, workload: str) -> dict[str, Any]:
        return {"config": self.config(workload)}


SERVERS: list[Server] = [
    Batchserve("batchserve", "batchserve"),
    Batchserve("batchserve-2", "batchserve, 2 workers", processes=2),
    Batchserve("batchserve-log", "batchserve, access log on", accesslog=True),
    Batchserve(
        "batchserve-compiled",
        "batchserve, compiled",
        keys={"compile": True},
        workloads=("image",),
    ),
    Batchserve(
        "batchserve-tuned",
        "batchserve, tuned",
        keys=TUNED,
        tuned=True,
        workloads=("image",),
    ),
    Batchserve(
        "batchserve-tuned-2",
        "batchserve, tuned, 2 workers",
        processes=2,
        keys=TUNED,
        tuned=True,
        workloads=("image",),
    ),
]

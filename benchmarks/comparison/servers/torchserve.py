"""TorchServe: a front end in Java, a Python process for the model."""

import subprocess

import yaml

from comparison.processes import free_port
from comparison.servers.base import HERE, Batching, Job, Server

PROPERTIES = """\
inference_address=http://127.0.0.1:{inference}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc_inference}
grpc_management_port={grpc_management}
disable_token_authorization=true
disable_system_metrics=true
job_queue_size=4096
"""
# Without this each request is written to two files.
LOGGING = """\
<Configuration>
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""
START_S = 120


class TorchServe(Server):
    """One worker, quiet logs. Bodies are sent as octets, or Python's `json` would parse them."""

    name, title = "torchserve", "TorchServe"
    package = peer = "torchserve"
    path = "/predictions/model"
    content_type = "application/octet-stream"
    warm_s = 8  # Java compiles as it goes

    def batching(self, workload: str) -> Batching:
        return Batching(16, 1) if workload == "image" else Batching(64, 1)

    def prepare(self, job: Job) -> None:
        kinds = ("management", "metrics", "grpc_inference", "grpc_management")
        ports = {kind: free_port() for kind in kinds}
        properties = PROPERTIES.format(inference=job.port, **ports)
        (job.folder / "config.properties").write_text(properties, encoding="utf-8")
        (job.folder / "log4j2.xml").write_text(LOGGING, encoding="utf-8")
        batching = self.batching(job.workload)
        model = {
            "minWorkers": self.processes,
            "maxWorkers": self.processes,
            "batchSize": batching.size,
            "maxBatchDelay": batching.wait_ms,
            "responseTimeout": START_S,
        }
        (job.folder / "model.yaml").write_text(yaml.safe_dump(model), encoding="utf-8")
        self._archive(job)

    def _archive(self, job: Job) -> None:
        store = job.folder / "store"
        store.mkdir()
        options = {
            "--model-name": "model",
            "--version": "1",
            "--handler": str(HERE / "comparison/services/torchserve.py"),
            "--config-file": str(job.folder / "model.yaml"),
            "--export-path": str(store),
        }
        command = [str(job.python.parent / "torch-model-archiver")]
        for option, value in options.items():
            command += [option, value]
        subprocess.run(command, check=True, capture_output=True, text=True)

    def environment(self, job: Job) -> dict[str, str]:
        own = {"LOG_LOCATION": str(job.folder), "METRICS_LOCATION": str(job.folder)}
        return {**super().environment(job), **own, "TEMP": str(job.folder)}

    def command(self, job: Job) -> list[str]:
        files = {"--ts-config": "config.properties", "--log-config": "log4j2.xml"}
        named = [
            part for option, name in files.items() for part in (option, str(job.folder / name))
        ]
        store = ["--model-store", str(job.folder / "store"), "--models", "model.mar"]
        start = [str(job.python.parent / "torchserve"), "--start", "--foreground"]
        return [*start, "--disable-token-auth", "--no-config-snapshots", *named, *store]


SERVERS: list[Server] = [TorchServe()]

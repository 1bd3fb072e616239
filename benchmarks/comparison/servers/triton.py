"""Triton's server, from the wheel of PyTriton, with its Python backend."""

import shutil
from pathlib import Path
from typing import Any

import orjson

from comparison.servers.base import HERE, Batching, Job, Server

CONFIG = """\
name: "model"
backend: "python"
max_batch_size: {size}
input [ {{ name: "INPUT" data_type: {kind} dims: [ {inputs} ] }} ]
output [ {{ name: "OUTPUT" data_type: {kind} dims: [ {outputs} ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: {wait_us} }}
"""
# The stub finds the environment by its PATH, and does not look at PYTHONPATH.
MODEL = """\
import sys
sys.path.insert(0, {folder!r})
from comparison.services.triton import TritonPythonModel
"""
SHAPES = {"tiny": (10, 10), "mlp": (784, 10), "image": (1, 1)}


class Triton(Server):
    """One instance. No wait: what came while the model was busy makes the next batch."""

    name, title = "triton", "Triton, Python backend"
    peer, package = "triton", "nvidia-pytriton"
    path = "/v2/models/model/infer"

    def batching(self, workload: str) -> Batching:
        return Batching(16, 0) if workload == "image" else Batching(64, 0)

    def prepare(self, job: Job) -> None:
        version = job.folder / "models" / "model" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL.format(folder=str(HERE)), encoding="utf-8")
        batching, (inputs, outputs) = self.batching(job.workload), SHAPES[job.workload]
        config = CONFIG.format(
            size=batching.size,
            kind="TYPE_STRING" if job.workload == "image" else "TYPE_FP32",
            inputs=inputs,
            outputs=outputs,
            wait_us=1000 * batching.wait_ms,
        )
        (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
        # The backend looks for a Python of the right version beside itself, and nowhere else.
        home = self._home(job)
        backend = shutil.copytree(home / "backends/python", job.folder / "backends/python")
        stub = f"python_backend_stubs/{_python_version(job)}/triton_python_backend_stub"
        shutil.copy(home / stub, backend)

    def _home(self, job: Job) -> Path:
        (found,) = job.python.parents[1].glob("lib/*/site-packages/pytriton/tritonserver")
        return found

    def environment(self, job: Job) -> dict[str, str]:
        # The stub was moved away from the libraries that it was linked beside.
        libraries = self._home(job).parents[1] / "nvidia_pytriton.libs"
        return {**super().environment(job), "LD_LIBRARY_PATH": str(libraries)}

    def command(self, job: Job) -> list[str]:
        options = {
            "model-repository": job.folder / "models",
            "backend-directory": job.folder / "backends",
            "http-address": "127.0.0.1",
            "http-port": job.port,
            "allow-grpc": "false",
            "allow-metrics": "false",
            "log-verbose": 0,
            "log-info": "false",
        }
        binary = str(self._home(job) / "bin" / "tritonserver")
        return [binary, *(f"--{option}={value}" for option, value in options.items())]

    def body(self, workload: str, payload: Any) -> bytes:
        numbers = workload != "image"
        given = {
            "name": "INPUT",
            "shape": [1, SHAPES[workload][0]],
            "datatype": "FP32" if numbers else "BYTES",
            "data": payload if numbers else [payload],
        }
        return orjson.dumps({"inputs": [given]})

    def output(self, answer: Any) -> Any:
        data = answer["outputs"][0]["data"]
        return orjson.loads(data[0]) if isinstance(data[0], str) else data


def _python_version(job: Job) -> str:
    (library,) = (job.python.parents[1] / "lib").glob("python3.*")
    return library.name.removeprefix("python")


SERVERS: list[Server] = [Triton()]

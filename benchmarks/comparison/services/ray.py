"""One Ray Serve replica with @serve.batch, without FastAPI."""

import os
import tempfile
from typing import Any

import orjson
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

from comparison.workloads import BATCH_SIZE, PORT, WAIT_MS, service

QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, logging_config=QUIET)
class Predictor:
    def __init__(self) -> None:
        self._service = service()

    @serve.batch(
        max_batch_size=int(os.environ[BATCH_SIZE]),
        batch_wait_timeout_s=float(os.environ[WAIT_MS]) / 1000,
    )
    async def answer(self, payloads: list[Any]) -> list[Any]:
        return self._service(payloads)

    async def __call__(self, request: Request) -> Response:
        output = await self.answer(orjson.loads(await request.body())["input"])
        return Response(orjson.dumps({"output": output}), media_type="application/json")


if __name__ == "__main__":
    ray.init(
        include_dashboard=False,
        num_cpus=os.cpu_count(),
        object_store_memory=128 * 1024 * 1024,
        _temp_dir=tempfile.gettempdir(),
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ[PORT])},
        logging_config=QUIET,
    )
    application: Any = Predictor
    serve.run(application.bind(), route_prefix="/predict", blocking=True)

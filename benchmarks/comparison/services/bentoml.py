"""A BentoML service with its adaptive batching. Inputs come as batches of one."""

import os
from typing import Any

import bentoml
import numpy as np

from comparison.workloads import BATCH_SIZE, WAIT_MS, WORKLOAD, service

# Numbers as an array: pydantic would check each number of a list.
PAYLOADS: Any = list[str] if os.environ[WORKLOAD] == "image" else np.ndarray


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Predictor:
    def __init__(self) -> None:
        self._answer = service()

    @bentoml.api(
        route="/predict",
        batchable=True,
        max_batch_size=int(os.environ[BATCH_SIZE]),
        max_latency_ms=int(os.environ[WAIT_MS]),
    )
    def predict(self, input: PAYLOADS) -> list[Any]:  # noqa: A002 - the JSON's key
        return self._answer(input)

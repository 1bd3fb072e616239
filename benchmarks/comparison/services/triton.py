"""A model for Triton's Python backend."""

import os
from typing import Any

import numpy as np
import orjson
import torch
import triton_python_backend_utils as triton

from comparison.workloads import WORKLOAD, service


class TritonPythonModel:
    def initialize(self, args: Any) -> None:
        self._service = service()
        self._answer = self._photos if os.environ[WORKLOAD] == "image" else self._numbers

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = [triton.get_input_tensor_by_name(one, "INPUT").as_numpy() for one in requests]
        rows = self._answer(np.concatenate(inputs))
        return [
            triton.InferenceResponse([triton.Tensor("OUTPUT", rows[place : place + 1])])
            for place in range(len(requests))
        ]

    def _numbers(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows: np.ndarray[Any, Any] = self._service.forward(torch.from_numpy(batch)).numpy()
        return rows

    def _photos(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        answers = self._service(batch[:, 0].tolist())
        return np.array([[orjson.dumps(answer)] for answer in answers], dtype=np.object_)

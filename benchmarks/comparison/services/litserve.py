"""One LitServe worker that is given lists of payloads."""

import os
from typing import Any

import litserve
from fastapi import Request

from comparison.workloads import BATCH_SIZE, PORT, WAIT_MS, Service, service


class Api(litserve.LitAPI):
    answer: Service

    def setup(self, device: str) -> None:
        self.answer = service()

    def decode_request(self, request: Request, **_: Any) -> Any:
        # By then, LitServe has made of the request what its JSON says.
        return request["input"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: list[Any], **_: Any) -> list[Any]:
        return self.answer(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any, **_: Any) -> Any:
        return {"output": output}


if __name__ == "__main__":
    api = Api(
        max_batch_size=int(os.environ[BATCH_SIZE]), batch_timeout=float(os.environ[WAIT_MS]) / 1000
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ[PORT]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )

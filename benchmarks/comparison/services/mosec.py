"""One inference worker behind Mosec's front end; msgspec parses and writes the JSON."""

import os
from typing import Any

import msgspec
from mosec import Server, Worker

from comparison.workloads import BATCH_SIZE, WAIT_MS, WORKLOAD, service


class Numbers(msgspec.Struct):
    """A request whose input is numbers."""

    input: list[float]


class Photo(msgspec.Struct):
    """A request whose input is a file in base64."""

    input: str


REQUEST = Photo if os.environ[WORKLOAD] == "image" else Numbers


class Inference(Worker):
    def __init__(self) -> None:
        self._answer = service()
        self._decoder = msgspec.json.Decoder(REQUEST)
        self._encoder = msgspec.json.Encoder()

    def deserialize(self, data: bytes) -> Any:
        return self._decoder.decode(data).input

    def forward(self, data: list[Any]) -> list[Any]:
        return self._answer(data)

    def serialize(self, data: Any) -> bytes:
        return self._encoder.encode({"output": data})


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Inference,
        num=1,
        max_batch_size=int(os.environ[BATCH_SIZE]),
        max_wait_time=int(os.environ[WAIT_MS]),
        route="/predict",
    )
    server.run()

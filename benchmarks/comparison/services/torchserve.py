"""A TorchServe handler. Bodies are sent as octets, so that orjson and not json parses them."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from comparison.workloads import Service, service


class Handler:
    answer: Service

    def initialize(self, context: Any) -> None:
        self.answer = service()

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        payloads = [orjson.loads(bytes(row["body"]))["input"] for row in data]
        return [orjson.dumps({"output": output}) for output in self.answer(payloads)]

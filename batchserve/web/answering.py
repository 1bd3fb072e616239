"""What every answer has, whoever gives it: an id, an error's form, and a place in the books."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from batchserve.errors import DeadlineExceeded, RequestError, Unauthorized, Unavailable
from batchserve.inference import Answer
from batchserve.metrics import Metrics
from batchserve.model_stats import ModelStats
from batchserve.repository import ModelVersion

# What is safe to repeat in a header and in a line of the log.
REQUEST_ID_FORM = re.compile(r"[\x21-\x7e]{1,128}")


def stated_id(headers: Mapping[str, str]) -> str | None:
    """Return the id that a client gave its request, if that can be repeated."""
    stated = headers.get("X-Request-Id", "")
    return stated if REQUEST_ID_FORM.fullmatch(stated) else None


def new_id() -> str:
    """Return an id for a request that has none; unlike uuid4's, without a system call."""
    return f"{random.getrandbits(128):032x}"


def error_body(error: RequestError) -> bytes:
    """Return the JSON that tells of an error."""
    return orjson.dumps({"error": str(error), "code": error.code})


def error_headers(error: RequestError) -> dict[str, str]:
    """Return what a client is told of an error beside its JSON."""
    if isinstance(error, Unavailable):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="batchserve"'}
    return {}


@dataclass(frozen=True, slots=True)
class Counting:
    """Counts the answers to requests that were meant for a model."""

    metrics: Metrics
    model_stats: ModelStats

    def answer(
        self, model: ModelVersion, status: int, seconds: float, answer: Answer | None
    ) -> None:
        """Count one.

        Args:
            model: whom the request was meant for.
            status: of HTTP.
            seconds: from the request's head to its answer.
            answer: the model's, if it gave one.
        """
        decode_s = None if answer is None else answer.decode_s
        self.metrics.on_answer(model.name, model.version, status, seconds, decode_s)
        self.model_stats.on_answer(model.name, model.version, status, seconds, answer)

    def refusal(self, model: ModelVersion, error: RequestError) -> None:
        """Count a request that was not computed, if that is what the error says."""
        if isinstance(error, Unavailable | DeadlineExceeded):
            self.metrics.rejected.labels(model.name, model.version, error.code).inc()

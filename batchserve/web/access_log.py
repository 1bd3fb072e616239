"""One line per request, as text or JSON: cheap to make, and written by `LineBuffer`."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from batchserve.inference import Answer
from batchserve.repository import ModelVersion
from batchserve.web.keys import ANSWER, CODE, MODEL, REQUEST_ID, SECONDS

# Probes, Prometheus and the dashboard come every few seconds and tell nothing.
SILENT = frozenset(
    {
        *("/livez", "/readyz", "/healthz", "/ping", "/metrics", "/dashboard/data"),
        *("/v2/health/live", "/v2/health/ready"),
    }
)
ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the log tells of one request.

    Attributes:
        bytes: of the answer, its head among them.
        code: of the error, if it was answered with one.
        model: whom it was meant for, if anybody.
        answer: the model's, if it gave one.
    """

    peer: str
    method: str
    path: str
    status: int
    bytes: int
    seconds: float
    request_id: str | None
    code: str | None
    model: ModelVersion | None
    answer: Answer | None


class AccessLog(AbstractAccessLogger):
    """Logs each request but the probes; `log_format` is `text` or `json`.

    As text, `time peer "POST /predict" 200 312 bytes 41.2 ms id=… model=resnet:1 batch=8 queue=1.3
    forward=35.0`, where the last three are missing if no model answered.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if request.path in SILENT:
            return
        self.write(
            Entry(
                peer_of(request),
                request.method,
                request.path_qs,
                response.status,
                response.body_length,
                # uvloop's clock, which `time` comes from, has milliseconds only.
                request.get(SECONDS, time),
                request.get(REQUEST_ID),
                request.get(CODE),
                request.get(MODEL),
                request.get(ANSWER),
            )
        )

    def write(self, entry: Entry) -> None:
        """Log a request."""
        self.logger.info((_json if self.log_format == "json" else _text)(entry))


def _text(entry: Entry) -> str:
    line = (
        f'{_now()} {entry.peer} "{entry.method} {entry.path}" {entry.status} '
        f"{entry.bytes} bytes {1000 * entry.seconds:.1f} ms id={entry.request_id or '-'}"
    )
    if entry.code:
        line += f" code={entry.code}"
    if entry.model:
        line += f" model={entry.model.name}:{entry.model.version}"
    if entry.answer:
        line += (
            f" batch={entry.answer.batch_size} queue={1000 * entry.answer.queue_s:.1f} "
            f"forward={1000 * entry.answer.forward_s:.1f}"
        )
    return line


def _json(entry: Entry) -> str:
    fields: dict[str, Any] = {
        "time": _now(),
        "peer": entry.peer,
        "method": entry.method,
        "path": entry.path,
        "status": entry.status,
        "bytes": entry.bytes,
        "ms": round(1000 * entry.seconds, 3),
        "id": entry.request_id,
    }
    if entry.code:
        fields["code"] = entry.code
    if entry.model:
        fields |= {"model": entry.model.name, "version": entry.model.version}
    if entry.answer:
        fields |= {
            "batch": entry.answer.batch_size,
            "reason": entry.answer.batch_reason,
            "decode_ms": round(1000 * entry.answer.decode_s, 3),
            "queue_ms": round(1000 * entry.answer.queue_s, 3),
            "forward_ms": round(1000 * entry.answer.forward_s, 3),
        }
    return orjson.dumps(fields).decode()


def peer_of(request: web.BaseRequest) -> str:
    """Return who asks; on a Unix socket, whom the proxy there says it asks for."""
    return request.remote or behind_proxy(request.headers)


def behind_proxy(headers: Mapping[str, str]) -> str:
    """Return whom a proxy says that it asks for; `unix` if it says nothing of use."""
    last = headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return last if ADDRESS.fullmatch(last) else "unix"


def _now() -> str:
    seconds, rest = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))

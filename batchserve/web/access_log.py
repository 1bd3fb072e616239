"""One line per request, as text or JSON: cheap to make, and written by `LineBuffer`."""

import re
import time
from functools import lru_cache
from typing import Any

import orjson
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from batchserve.web.keys import ANSWER, CODE, MODEL, REQUEST_ID, SECONDS

# Probes, Prometheus and the dashboard come every few seconds and tell nothing.
SILENT = frozenset(
    {
        *("/livez", "/readyz", "/healthz", "/ping", "/metrics", "/dashboard/data"),
        *("/v2/health/live", "/v2/health/ready"),
    }
)
ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")


class AccessLog(AbstractAccessLogger):
    """Logs each request but the probes; `log_format` is `text` or `json`.

    As text, `time peer "POST /predict" 200 312 bytes 41.2 ms id=… model=resnet:1 batch=8 queue=1.3
    forward=35.0`, where the last three are missing if no model answered.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if request.path in SILENT:
            return
        # uvloop's clock, which `time` comes from, has milliseconds only.
        seconds = request.get(SECONDS, time)
        line = _json if self.log_format == "json" else _text
        self.logger.info(line(request, response, seconds))


def _text(request: web.BaseRequest, response: web.StreamResponse, seconds: float) -> str:
    line = (
        f'{_now()} {peer_of(request)} "{request.method} {request.path_qs}" {response.status} '
        f"{response.body_length} bytes {1000 * seconds:.1f} ms id={request.get(REQUEST_ID, '-')}"
    )
    if code := request.get(CODE):
        line += f" code={code}"
    if model := request.get(MODEL):
        line += f" model={model.name}:{model.version}"
    if answer := request.get(ANSWER):
        line += (
            f" batch={answer.batch_size} queue={1000 * answer.queue_s:.1f} "
            f"forward={1000 * answer.forward_s:.1f}"
        )
    return line


def _json(request: web.BaseRequest, response: web.StreamResponse, seconds: float) -> str:
    fields: dict[str, Any] = {
        "time": _now(),
        "peer": peer_of(request),
        "method": request.method,
        "path": request.path_qs,
        "status": response.status,
        "bytes": response.body_length,
        "ms": round(1000 * seconds, 3),
        "id": request.get(REQUEST_ID),
    }
    if code := request.get(CODE):
        fields["code"] = code
    if model := request.get(MODEL):
        fields |= {"model": model.name, "version": model.version}
    if answer := request.get(ANSWER):
        fields |= {
            "batch": answer.batch_size,
            "reason": answer.batch_reason,
            "decode_ms": round(1000 * answer.decode_s, 3),
            "queue_ms": round(1000 * answer.queue_s, 3),
            "forward_ms": round(1000 * answer.forward_s, 3),
        }
    return orjson.dumps(fields).decode()


def peer_of(request: web.BaseRequest) -> str:
    """Return who asks; on a Unix socket, whom the proxy there says it asks for."""
    if request.remote:
        return request.remote
    last = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return last if ADDRESS.fullmatch(last) else "unix"


def _now() -> str:
    seconds, rest = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))

"""One line per request, cheap to make: aiohttp's own formatting costs more than a small answer."""

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from batchserve.web.keys import ANSWER, REQUEST_ID, SECONDS

# Probes come every few seconds and tell nothing.
SILENT = frozenset(
    {
        *("/livez", "/readyz", "/healthz", "/ping", "/metrics"),
        *("/v2/health/live", "/v2/health/ready"),
    }
)


class AccessLog(AbstractAccessLogger):
    """`address "POST /predict" 200 312 bytes 41.2 ms id=… batch=8 queue=1.3 forward=35.0`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if request.path in SILENT:
            return
        # uvloop's clock, which `time` comes from, has milliseconds only.
        seconds = request.get(SECONDS, time)
        request_id = request.get(REQUEST_ID, "-")
        answer = request.get(ANSWER)
        batch = (
            f" batch={answer.batch_size} queue={1000 * answer.queue_s:.1f} "
            f"forward={1000 * answer.forward_s:.1f}"
            if answer
            else ""
        )
        self.logger.info(
            f'{request.remote or "unix"} "{request.method} {request.path_qs}" {response.status} '  # noqa: G004 - half the cost of %-formatting
            f"{response.body_length} bytes {1000 * seconds:.1f} ms id={request_id}{batch}"
        )

"""Whether requests are traced, and what is noted of one that is."""

import logging
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from batchserve.errors import ConfigError
from batchserve.records import RequestRecord, Tracer
from batchserve.web.access_log import SILENT, peer_of
from batchserve.web.keys import CODE, MODEL, RECORD, REQUEST_ID

if TYPE_CHECKING:
    from batchserve.otel import SpanMaker

logger = logging.getLogger(__name__)

# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HOW = "pip install 'batchserve[otel]'"


def make_tracer(endpoint: str | None, environ: Mapping[str, str]) -> "SpanMaker | None":
    """Return what traces requests; None: nobody asks for it.

    Args:
        endpoint: `server.otel_endpoint`; None: OpenTelemetry's own variables decide.
        environ: the environment.

    Raises:
        ConfigError: the config asks for it, and the extra is not installed.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if endpoint is None and not _is_asked_for(environ):
        return None
    try:
        from batchserve.otel import otlp  # noqa: PLC0415 - an extra, for those who trace
    except ImportError as error:
        if endpoint is not None:
            raise ConfigError(f"server.otel_endpoint: {error}; {HOW}") from None
        logger.warning("requests are not traced, as OTEL_… asks: %s; %s", error, HOW)
        return None
    return otlp(endpoint)


def _is_asked_for(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "otlp":
        return False
    if not any(environ.get(variable, "").strip() for variable in ENDPOINTS):
        return False
    protocol = next(filter(None, map(environ.get, PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        logger.warning("requests are not traced: we speak http/protobuf, and not %s", protocol)
        return False
    return True


def trace_with(tracer: Tracer) -> Middleware:
    """Return a middleware that notes every request but the probes for a tracer."""

    @web.middleware
    async def trace_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in SILENT:
            return await handler(request)
        record = request[RECORD] = RequestRecord(
            headers=request.headers,
            method=request.method,
            path=request.path,
            route=_route_of(request),
            peer=peer_of(request),
            began_s=monotonic(),
        )
        response = await handler(request)
        record.ended_s = monotonic()
        record.status = response.status
        record.request_id = request[REQUEST_ID]
        record.code = request.get(CODE)
        if model := request.get(MODEL):
            record.model, record.version = model.name, model.version
        tracer.note(record)
        return response

    return trace_requests


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else ""

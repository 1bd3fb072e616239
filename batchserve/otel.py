"""Requests and batches as OpenTelemetry spans, made after the fact from their records.

Needs the extra `otel`; nothing imports this module unless traces are asked for. The names of
attributes: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from batchserve import __version__
from batchserve.records import PassRecord, RequestRecord

# How often spans are made; one request's at a time, so that the event loop stays free.
INTERVAL_S = 0.1
# Records that may wait; beyond, the oldest are forgotten.
MOST = 20_000
# How long a worker that leaves tries to reach the collector; the SDK itself: half a minute.
LINGER_S = 2.0
UNNAMED = "unknown_service"


class SpanMaker:
    """Makes spans of records, on the event loop but between requests; a `records.Tracer`.

    Args:
        processor: takes the spans.
        give_up: has the processor's exporter try no longer.
        sampler: which requests to trace; None: as OTEL_TRACES_SAMPLER says, or as the caller does.
    """

    def __init__(
        self,
        processor: SpanProcessor,
        give_up: Callable[[], None] = lambda: None,
        sampler: Sampler | None = None,
    ) -> None:
        self._processor = processor
        self._give_up = give_up
        self._records: deque[RequestRecord] = deque(maxlen=MOST)
        self._epoch_s = 0.0  # when the monotonic clock was 0
        resource = _resource()
        self._tracer = _tracer(resource, processor, sampler)
        # A batch has a span if any of its requests has: they are linked to it.
        self._batch_tracer = _tracer(resource, processor, ALWAYS_ON)

    def note(self, record: RequestRecord) -> None:
        """Take a record; its spans come later."""
        self._records.append(record)

    async def run(self) -> None:
        """Make spans for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            while self._records:
                self._make_spans(self._records.popleft())
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Make the spans that are left, and have them sent."""
        while self._records:
            self._make_spans(self._records.popleft())
        timer = asyncio.get_running_loop().call_later(LINGER_S, self._give_up)
        await asyncio.to_thread(self._processor.shutdown)
        timer.cancel()

    def _make_spans(self, record: RequestRecord) -> None:
        # The wall clock may be set, so not once and for all; but once for all parts of a request.
        self._epoch_s = time.time() - time.monotonic()
        span = self._tracer.start_span(
            f"{record.method} {record.route}".rstrip(),
            context=propagate.extract(record.headers),
            kind=SpanKind.SERVER,
            attributes=_attributes(record),
            start_time=self._epoch_ns(record.began_s),
        )
        if span.is_recording():
            self._add_parts(span, record)
        if record.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._epoch_ns(record.ended_s))

    def _add_parts(self, span: Span, record: RequestRecord) -> None:
        queued_s = record.queued_s
        if queued_s is None:
            return
        self._add_part(span, "decode", queued_s - record.decode_s, queued_s)
        for each in record.passes:
            link = Link(self._batch(each))
            span.add_link(link.context)
            self._add_part(span, "queue", queued_s, each.formed_s)
            self._add_part(span, "forward", each.started_s, each.started_s + each.forward_s, link)

    def _add_part(self, of: Span, name: str, began_s: float, ended_s: float, *links: Link) -> None:
        part = self._tracer.start_span(
            name, trace.set_span_in_context(of), links=links, start_time=self._epoch_ns(began_s)
        )
        part.end(self._epoch_ns(ended_s))

    def _epoch_ns(self, clock_s: float) -> int:
        """Return a time on the monotonic clock as OpenTelemetry counts it."""
        return int(1e9 * (self._epoch_s + clock_s))

    def _batch(self, record: PassRecord) -> SpanContext:
        """Return the context of a batch's span, which the first of its requests has made."""
        if record.span is None:
            span = self._batch_tracer.start_span(
                "batch",
                Context(),
                attributes={
                    "batchserve.batch.size": record.size,
                    "batchserve.batch.reason": record.reason,
                },
                start_time=self._epoch_ns(record.formed_s),
            )
            span.end(self._epoch_ns(record.started_s + record.forward_s))
            record.span = span.get_span_context()
        context: SpanContext = record.span
        return context


def otlp(endpoint: str | None) -> SpanMaker:
    """Return what sends spans to a collector, in OTLP over HTTP.

    Args:
        endpoint: as in `http://127.0.0.1:4318`; None: as the environment says.
    """
    url = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(url)
    return SpanMaker(BatchSpanProcessor(exporter), give_up=exporter.shutdown)


def _tracer(resource: Resource, processor: SpanProcessor, sampler: Sampler | None) -> trace.Tracer:
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider.get_tracer("batchserve", __version__)


def _resource() -> Resource:
    """Return what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and our name otherwise."""
    stated = Resource.create({SERVICE_VERSION: __version__})
    if str(stated.attributes[SERVICE_NAME]).startswith(UNNAMED):
        return stated.merge(Resource({SERVICE_NAME: "batchserve"}))
    return stated


def _attributes(record: RequestRecord) -> dict[str, Any]:
    stated = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "http.route": record.route or None,
        "url.path": record.path,
        "url.scheme": "http",
        "client.address": record.peer,
        "error.type": record.code,
        "batchserve.request_id": record.request_id,
        "batchserve.model": record.model,
        "batchserve.version": record.version,
        "batchserve.batch.size": max((each.size for each in record.passes), default=None),
    }
    return {name: value for name, value in stated.items() if value is not None}

"""Traces: a span for a request, its parts, and a link to its batch; nothing if nobody asks."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from batchserve import otel
from batchserve.errors import ConfigError
from batchserve.otel import SpanMaker
from batchserve.web.tracing import make_tracer
from tests.conftest import ROOT
from tests.web.clients import Client, batcher_of, gate, until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = f"{PARENT[:-2]}00"
ENDPOINT = "http://127.0.0.1:4318"

Spans = Callable[[], list[ReadableSpan]]
ServeTraced = Callable[..., Awaitable[Client]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "INTERVAL_S", 0)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    exporter = InMemorySpanExporter()
    maker = SpanMaker(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "otlp", lambda endpoint: maker)
    return lambda: list(exporter.get_finished_spans())


@pytest.fixture
def traced(serve, spans) -> ServeTraced:
    async def start(**changes) -> Client:
        server = {"otel_endpoint": ENDPOINT, "torch_threads": 1}
        client: Client = await serve(server=server, **{"source": "tests.models:Double", **changes})
        return client

    return start


async def find(spans: Spans, *names: str) -> list[ReadableSpan]:
    """Return the spans of these names, once there are all of them."""
    await until(lambda: set(names) <= {span.name for span in spans()})
    return [next(span for span in spans() if span.name == name) for name in names]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


async def test_a_request_is_a_span_with_its_parts_linked_to_its_batch(traced, spans):
    client = await traced()
    headers = {"traceparent": PARENT, "X-Request-Id": "mine-7"}
    await client.post("/models/tiny/predict?x", json={"input": [1]})
    await client.post("/models/tiny/predict", json={"input": [1]}, headers=headers)
    await until(lambda: sum(span.kind is SpanKind.SERVER for span in spans()) == 2)
    request = next(span for span in spans() if span.kind is SpanKind.SERVER and span.parent)
    assert request.name == "POST /models/{name}/predict"
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}" in PARENT
    assert f"{request.parent.span_id:016x}" in PARENT
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/models/{name}/predict",
        "url.path": "/models/tiny/predict",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "batchserve.request_id": "mine-7",
        "batchserve.model": "tiny",
        "batchserve.version": "1",
        "batchserve.batch.size": 1,
    }
    of_request = [span for span in spans() if span.parent and span.parent == request.context]
    assert [span.name for span in of_request] == ["decode", "queue", "forward"]
    (began, ended), *parts = [times(span) for span in (request, *of_request)]
    moments = [began, *(moment for part in parts for moment in part), ended]
    assert moments == sorted(moments)
    (batch,) = (span for span in spans() if span.context == request.links[0].context)
    assert batch.name == "batch"
    assert [link.context for link in of_request[-1].links] == [batch.context]
    assert attributes(batch)["batchserve.batch.size"] == 1
    assert batch.context.trace_id != request.context.trace_id


async def test_requests_that_share_a_batch_are_linked_to_one_span(traced, spans):
    client = await traced(batching={"max_batch_size": 8})
    runner = gate(client)
    asking = [asyncio.create_task(client.post("/predict", json={"input": [0]}))]
    await runner.wait_started()
    asking += [
        asyncio.create_task(client.post("/predict", json={"inputs": [[i], [i]]})) for i in (1, 2)
    ]
    await until(lambda: batcher_of(client).queued == 4)
    runner.release()
    runner.release()
    await asyncio.gather(*asking)
    await until(lambda: sum(span.kind is SpanKind.SERVER for span in spans()) == 3)
    sizes = sorted(
        attributes(span)["batchserve.batch.size"] for span in spans() if span.name == "batch"
    )
    assert sizes == [1, 4]
    linked = {span.links[0].context.span_id for span in spans() if span.kind is SpanKind.SERVER}
    assert len(linked) == 2


async def test_a_request_over_several_batches_has_a_part_for_each(traced, spans):
    client = await traced(batching={"max_batch_size": 2})
    await client.post("/predict", json={"inputs": [[i] for i in range(5)]})
    (request,) = await find(spans, "POST /predict")
    assert len(request.links) == 3
    names = [span.name for span in spans() if span.parent == request.context]
    assert names == ["decode"] + 3 * ["queue", "forward"]


@pytest.mark.parametrize(
    ("path", "body", "name", "status", "code"),
    [
        ("/predict", {"input": "text"}, "POST /predict", 422, "invalid_input"),
        ("/predict", {"input": [-1]}, "POST /predict", 500, "model_failed"),
        ("/nothing", {}, "POST", 404, "not_found"),
    ],
)
async def test_an_error_is_a_span_too(traced, spans, path, body, name, status, code):
    client = await traced(source="tests.models:FailsOnNegative")
    await client.post(path, json=body)
    (request,) = await find(spans, name)
    assert attributes(request)["http.response.status_code"] == status
    assert attributes(request)["error.type"] == code
    failed = StatusCode.ERROR if status >= 500 else StatusCode.UNSET
    assert request.status.status_code is failed


async def test_what_the_caller_does_not_sample_is_no_span_nor_are_probes(traced, spans):
    client = await traced()
    await client.post("/predict", json={"input": [1]}, headers={"traceparent": UNSAMPLED})
    await client.get("/livez")
    await client.get("/metrics")
    await client.get("/models")
    await find(spans, "GET /models")
    assert [span.name for span in spans()] == ["GET /models"]


def test_the_service_is_named(monkeypatch):
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    assert otel._resource().attributes["service.name"] == "batchserve"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=photos,zone=north")
    assert otel._resource().attributes["service.name"] == "photos"
    assert otel._resource().attributes["zone"] == "north"


async def test_a_collector_gets_the_spans(serve, aiohttp_server):
    came: list[str] = []

    async def take(request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        came.extend(
            span.name
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    collector = await aiohttp_server(app)
    client = await serve(
        server={"otel_endpoint": str(collector.make_url("/"))}, source="tests.models:Double"
    )
    await client.post("/predict", json={"input": [1]})
    # What has not been sent yet is when the server stops.
    await client.server.close()
    assert sorted(came) == ["POST /predict", "batch", "decode", "forward", "queue"]


async def test_without_a_configuration_there_is_no_trace_of_tracing(serve):
    client = await serve(source="tests.models:Double")
    names = [middleware.__name__ for middleware in client.app.middlewares]
    assert "trace_requests" not in names


@pytest.mark.parametrize(
    ("endpoint", "environ", "on"),
    [
        (None, {}, False),
        (ENDPOINT, {}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{ENDPOINT}/v1/traces"}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
         False),
        (ENDPOINT, {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)  # fmt: skip
def test_who_asks_for_traces(spans, endpoint, environ, on):
    assert (make_tracer(endpoint, environ) is not None) == on


@pytest.fixture
def _not_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delitem(sys.modules, "batchserve.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    yield
    sys.modules["batchserve.otel"] = otel


@pytest.mark.usefixtures("_not_installed")
def test_without_the_extra_the_config_is_refused_and_the_environment_is_warned_of(caplog):
    with pytest.raises(ConfigError, match=r"otel_endpoint.*pip install 'batchserve\[otel\]'"):
        make_tracer(ENDPOINT, {})
    with caplog.at_level(logging.WARNING):
        assert make_tracer(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}) is None
    assert "pip install 'batchserve[otel]'" in caplog.text


def test_nothing_of_it_is_imported_unless_asked_for():
    code = "import sys, batchserve.app; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

"""The wiring: config to models to application, and the one table of routes."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from aiohttp import web
from rich.console import Console

from batchserve import signals, systemd
from batchserve.administration import Administration
from batchserve.batch import Batch, Fault
from batchserve.config import Config
from batchserve.config_file import config_path, valid_config
from batchserve.decoding import CodecPool
from batchserve.errors import StartupError
from batchserve.greeting import greeting
from batchserve.leaving import Leaving, Traffic
from batchserve.lineage import LINEAGE
from batchserve.loading import use_threads
from batchserve.loading_bar import loading_bar
from batchserve.metrics import MULTIPROC_DIR, Metrics
from batchserve.model_stats import ModelStats
from batchserve.permission import permitted
from batchserve.repository import ModelRepository, ModelVersion
from batchserve.repository.follower import Follower, Identity
from batchserve.repository.version import OnBatch, OnFault
from batchserve.shadow import Shadow
from batchserve.stores import open_store
from batchserve.trace import Trace
from batchserve.web import (
    admin,
    dashboard,
    debug,
    health,
    kserve_v1,
    operations,
    page,
    torchserve,
    torchserve_admin,
)
from batchserve.web.access_log import AccessLog
from batchserve.web.answering import Counting
from batchserve.web.authority import ask_for_key, is_administration
from batchserve.web.door import SHORTEST_S, Door
from batchserve.web.endpoints import Endpoint
from batchserve.web.fast_path.services import Services
from batchserve.web.fetch import Fetcher
from batchserve.web.keys import (
    ADMINISTRATION,
    CONFIG,
    FAST_PATH,
    FETCHER,
    FOLLOWER,
    METRICS,
    MODEL_STATS,
    POOL,
    REPOSITORY,
    SHADOW,
    TRACE,
    TRAFFIC,
)
from batchserve.web.line_buffer import LineBuffer
from batchserve.web.middleware import answer_errors, see_off
from batchserve.web.openapi import openapi
from batchserve.web.predict import predict
from batchserve.web.tracing import make_tracer, trace_with
from batchserve.web.v2 import metadata, statistics
from batchserve.web.v2 import repository as v2_repository
from batchserve.web.v2.infer import infer

logger = logging.getLogger("batchserve")

ROUTES = [
    *(
        route(path, predict)
        for path in (
            "/predict",
            "/models/{name}/predict",
            "/models/{name}/versions/{version}/predict",
        )
        for route in (web.post, partial(web.get, allow_head=False))
    ),
    web.get("/v2", metadata.server),
    web.get("/v2/health/live", metadata.live),
    web.get("/v2/health/ready", metadata.ready),
    # Before the models, of which one called stats cannot be described.
    web.get("/v2/models/stats", statistics.stats),
    web.get("/v2/models/{name}/stats", statistics.stats),
    web.get("/v2/models/{name}/versions/{version}/stats", statistics.stats),
    web.get("/v2/models/{name}", metadata.model),
    web.get("/v2/models/{name}/versions/{version}", metadata.model),
    web.get("/v2/models/{name}/config", metadata.config),
    web.get("/v2/models/{name}/versions/{version}/config", metadata.config),
    web.get("/v2/models/{name}/ready", metadata.model_ready),
    web.get("/v2/models/{name}/versions/{version}/ready", metadata.model_ready),
    web.post("/v2/models/{name}/infer", infer),
    web.post("/v2/models/{name}/versions/{version}/infer", infer),
    web.post("/v2/repository/index", metadata.index),
    web.post("/v2/repository/models/{name}/load", v2_repository.load),
    web.post("/v2/repository/models/{name}/unload", v2_repository.unload),
    web.get("/v1/models", kserve_v1.list_models),
    web.post("/v1/models/{name}:predict", kserve_v1.predict),
    web.get("/v1/models/{name}", kserve_v1.model_ready),
    web.post("/predictions/{name}", torchserve.predict),
    web.put("/predictions/{name}", torchserve.predict),
    web.post("/predictions/{name}/{version}", torchserve.predict),
    web.put("/predictions/{name}/{version}", torchserve.predict),
    web.get("/models", operations.list_models),
    web.get("/models/{name}", operations.show_model),
    web.post("/models", torchserve_admin.register),
    web.put("/models/{name}", torchserve_admin.scale),
    web.put("/models/{name}/{version}", torchserve_admin.scale),
    web.put("/models/{name}/{version}/set-default", torchserve_admin.set_default),
    web.delete("/models/{name}", torchserve_admin.unregister),
    web.delete("/models/{name}/{version}", torchserve_admin.unregister),
    web.put("/admin/models/{name}/versions/{version}", admin.load_version),
    web.delete("/admin/models/{name}/versions/{version}", admin.unload_version),
    web.put("/admin/models/{name}/current", admin.set_current),
    web.post("/admin/models/{name}/rollback", admin.roll_back),
    web.put("/admin/models/{name}/candidate", admin.set_candidate),
    web.delete("/admin/models/{name}/candidate", admin.clear_candidate),
    web.post("/admin/models/{name}/promote", admin.promote),
    web.get("/livez", health.live),
    web.get("/readyz", health.ready),
    web.get("/healthz", health.ready),
    web.get("/ping", health.ping),
    web.get("/metrics", operations.expose_metrics),
    web.get("/debug/batches", debug.show_batches),
    web.get("/openapi.json", openapi),
    web.get("/docs", page.docs),
    web.get("/docs/static/{name}", page.docs_asset),
    web.get("/", page.index),
    web.get("/dashboard", page.dashboard),
    web.get("/dashboard/data", dashboard.show_history),
    web.get("/static/{name}", page.asset),
    web.get("/samples/{name}", page.sample),
]

# Gunicorn's code for a worker that cannot start: the master stops instead of trying for ever.
WORKER_BOOT_ERROR = 3
GAUGE_SECONDS = 0.5
LOOK_SECONDS = 0.5


async def create_app() -> web.AppRunner:
    """Return what a Gunicorn worker runs: `gunicorn -c gunicorn.conf.py batchserve.app:create_app`.

    The models are loaded here, after the fork and before the worker accepts a connection, so that
    the other workers answer until this one can.
    """
    _log_to_gunicorn()
    try:
        config = valid_config(os.environ)
        # Modules that the config names may lie beside it.
        sys.path.insert(0, str(config_path(os.environ).resolve().parent))
        app = await build_app(config)
    except StartupError as error:
        if LINEAGE.ever_ready or LINEAGE.claim_end():
            logger.error("cannot start: %s", error)  # noqa: TRY400 - no traceback for users
        raise SystemExit(WORKER_BOOT_ERROR) from None
    door = _open_later(app, config)
    signals.let_through()
    for version in app[REPOSITORY].versions:
        if version.loaded:
            logger.info("%s", version.summary)
    return door


async def build_app(config: Config) -> web.Application:
    """Load the models of a config, and return the application that serves them.

    Raises:
        LoadError: a model cannot be loaded.
    """
    tracer = await asyncio.to_thread(make_tracer, config.server.otel_endpoint, os.environ)
    use_threads(config.server.threads_of_forward)
    metrics, trace = Metrics(), Trace()
    shared = os.environ.get(MULTIPROC_DIR)
    model_stats = ModelStats(Path(shared) if shared else None)

    def on_batch(model: ModelVersion, batch: Batch) -> None:
        metrics.on_batch(model.name, model.version, batch)
        model_stats.on_batch(model.name, model.version, batch)
        trace.on_batch(model.batcher.name, batch, model.batcher.queued)

    def on_fault(model: ModelVersion, fault: Fault) -> None:
        metrics.on_fault(model.name, model.version, fault)

    repository, follower = await _loaded(config, on_batch, on_fault)
    app = web.Application(
        middlewares=[see_off, answer_errors, ask_for_key],
        client_max_size=config.server.max_body_bytes,
    )
    app[CONFIG] = config
    app[REPOSITORY] = repository
    app[METRICS] = metrics
    app[MODEL_STATS] = model_stats
    app[TRACE] = trace
    app[TRAFFIC] = Traffic(LINEAGE.max_requests)
    app[POOL] = CodecPool(config.server.threads_of_decoding)
    app[SHADOW] = Shadow(repository, app[POOL], metrics, config.server.default_timeout_ms / 1000)
    if follower is not None:
        app[FOLLOWER] = follower
        app[ADMINISTRATION] = Administration(config, follower)
    app.add_routes(route for route in ROUTES if follower or not is_administration(route.handler))
    for endpoint in config.endpoints:
        app.router.add_post(endpoint.path, Endpoint(endpoint, config.models).answer)
    app.cleanup_ctx.extend(
        [
            *(_decoding, _fetching, _models, dashboard.history),
            *(_meanwhile(_sample_gauges), _meanwhile(_share_model_stats)),
        ]
    )
    app.on_shutdown.append(_drain)
    if tracer is None:
        app[FAST_PATH] = Services(
            app[POOL],
            app[TRAFFIC],
            Counting(metrics, model_stats),
            config.server.default_timeout_ms,
        )
    else:
        app.middlewares.insert(0, trace_with(tracer))
        app.cleanup_ctx.append(_meanwhile(lambda _app: tracer.run()))
        app.on_cleanup.append(lambda _app: tracer.close())
    return app


async def _loaded(
    config: Config, on_batch: OnBatch, on_fault: OnFault
) -> tuple[ModelRepository, Follower | None]:
    """Return the models, and who follows what is wanted of them, if there is administration."""
    hang_s, threads = config.server.hang_seconds, config.server.threads_of_forward
    strict = LINEAGE.is_covered(config.server.workers)
    administered = config.server.admin_token is not None
    configs = () if administered else config.models
    repository = ModelRepository(configs, on_batch, on_fault, hang_s, threads)
    follower = _follower(config, repository) if administered else None
    async with _loading_bar(config, repository):
        if follower is None:
            await repository.load(strict=strict)
            return repository, None
        try:
            await follower.start(strict=strict)
        except StartupError:
            await follower.close()
            await repository.close()
            raise
    return repository, follower


def _loading_bar(config: Config, repository: ModelRepository) -> AbstractAsyncContextManager[None]:
    """Show how far the models are, where this process has the terminal for itself."""
    if config.server.workers > 1 or not LINEAGE.first:
        return nullcontext()
    console = Console(file=sys.stderr)
    return loading_bar(lambda: repository.versions, console, logger.handlers)


def _follower(config: Config, repository: ModelRepository) -> Follower:
    return Follower(
        repository,
        partial(open_store, config.server.state),
        config.models,
        partial(permitted, config),
        Identity(LINEAGE.server, LINEAGE.generation),
    )


def _open_later(app: web.Application, config: Config) -> Door:
    """Return what will accept connections, and leave without losing a request."""
    server, traffic = config.server, app[TRAFFIC]
    lines = LineBuffer(logging.getLogger("gunicorn.access"))
    door = Door(
        app,
        AccessLog(cast("logging.Logger", lines), server.log_format) if server.accesslog else None,
        # A client who hangs up takes its items out of the queue.
        handler_cancellation=True,
        shutdown_timeout=max(SHORTEST_S, server.drain_seconds),
        logger=logger,
    )
    leaving = Leaving(traffic, LINEAGE, door, server.grace_seconds, server.drain_seconds)
    traffic.on_enough = leaving.retire

    async def attend(app: web.Application) -> None:
        await door.opened()
        LINEAGE.announce_ready(complete=not app[REPOSITORY].failed)
        systemd.announce_ready(f"serving {', '.join(v.name for v in app[REPOSITORY].versions)}")
        if LINEAGE.first:
            loaded = [version for version in app[REPOSITORY].versions if version.loaded]
            for line in greeting(server, loaded, door.addresses):
                logger.info("%s", line)
        while not (lost := app[REPOSITORY].lost):  # noqa: ASYNC110 - a plain attribute tells
            await asyncio.sleep(LOOK_SECONDS)
        leaving.replace_worker(lost)

    app.cleanup_ctx.append(_meanwhile(attend))
    app.on_cleanup.append(lambda _app: lines.close())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.step_down)
    return door


async def _decoding(app: web.Application) -> AsyncIterator[None]:
    yield
    app[POOL].close()


async def _fetching(app: web.Application) -> AsyncIterator[None]:
    server = app[CONFIG].server
    app[FETCHER] = Fetcher(server.fetch, server.max_body_bytes)
    yield
    await app[FETCHER].close()


async def _models(app: web.Application) -> AsyncIterator[None]:
    yield
    if FOLLOWER in app:
        await app[FOLLOWER].close()
    await app[REPOSITORY].close()


async def _drain(app: web.Application) -> None:
    # aiohttp has closed the listening sockets and now waits for the handlers.
    app[REPOSITORY].drain()
    await app[SHADOW].close()


async def _sample_gauges(app: web.Application) -> None:
    """Sample the gauges, off the path of requests."""
    metrics, repository = app[METRICS], app[REPOSITORY]
    metrics.serving.set(1)
    shown: dict[tuple[str, str], tuple[int, int, float]] = {}
    try:
        while True:
            for version in repository.versions:
                metrics.introduce(version.name, version.version, version.config.slo_ms)
            # Those of a version that is gone stay, at nothing.
            gone = dict.fromkeys(shown, (0, 0, 0.0))
            shown = _samples(repository)
            for (name, number), sample in (gone | shown).items():
                metrics.sample(name, number, *sample)
            # For those who ask another worker.
            metrics.count()
            await asyncio.sleep(GAUGE_SECONDS)
    finally:
        metrics.count()


def _samples(repository: ModelRepository) -> dict[tuple[str, str], tuple[int, int, float]]:
    samples: dict[tuple[str, str], tuple[int, int, float]] = {}
    for version in [*repository.versions, *repository.retiring]:
        if version.loaded:
            batcher = version.batcher
            # It may be there twice, while it is replaced.
            queued, in_flight, backlog_s = samples.get((version.name, version.version), (0, 0, 0.0))
            samples[version.name, version.version] = (
                queued + batcher.queued,
                in_flight + batcher.in_flight,
                backlog_s + batcher.scheduler.backlog_s(batcher.clock()),
            )
    return samples


async def _share_model_stats(app: web.Application) -> None:
    """Leave the statistics where other workers find them, the last of them at the end."""
    kept = app[MODEL_STATS]
    try:
        try:
            while True:
                await asyncio.to_thread(kept.save)
                await asyncio.sleep(GAUGE_SECONDS)
        finally:
            await asyncio.to_thread(kept.save)
    except OSError as error:
        logger.warning("the statistics of this worker are not shared any more: %s", error)


def _meanwhile(
    work: Callable[[web.Application], Coroutine[Any, Any, None]],
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a context in which some work goes on beside the serving."""

    async def context(app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(work(app), name=work.__name__)
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return context


def _log_to_gunicorn() -> None:
    """Write our log where Gunicorn writes its errors."""
    logger.handlers = logging.getLogger("gunicorn.error").handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False

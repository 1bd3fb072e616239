"""A worker's life: config to models to application, opened once all is there."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

from aiohttp import web

from batchserve import signals, systemd
from batchserve.administration import Administration
from batchserve.batch import Batch, Fault
from batchserve.config import Config
from batchserve.config_file import config_path, valid_config
from batchserve.crew import CREW
from batchserve.decoding import CodecPool
from batchserve.errors import StartupError
from batchserve.greeting import greeting
from batchserve.leaving import Leaving, Traffic
from batchserve.lineage import LINEAGE
from batchserve.metrics import MULTIPROC_DIR, Metrics
from batchserve.model_stats import ModelStats
from batchserve.own_thread import keep_to_one_core
from batchserve.repository import ModelVersion
from batchserve.shadow import Shadow
from batchserve.start import load_models
from batchserve.trace import Trace
from batchserve.web.access_log import AccessLog
from batchserve.web.answering import Counting
from batchserve.web.authority import ask_for_key
from batchserve.web.background import meanwhile, sample_gauges, share_model_stats
from batchserve.web.dashboard import history
from batchserve.web.door import SHORTEST_S, Door
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
from batchserve.web.routes import add_routes
from batchserve.web.tracing import make_tracer, trace_with

logger = logging.getLogger("batchserve")

# Gunicorn's code for a worker that cannot start: the master stops instead of trying for ever.
WORKER_BOOT_ERROR = 3
LOOK_SECONDS = 0.5
# How often connections are shared out anew.
SPREAD_SECONDS = 1.0


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
    keep_to_one_core()
    metrics, trace = Metrics(), Trace()
    shared = os.environ.get(MULTIPROC_DIR)
    model_stats = ModelStats(Path(shared) if shared else None)

    def on_batch(model: ModelVersion, batch: Batch) -> None:
        metrics.on_batch(model.name, model.version, batch)
        model_stats.on_batch(model.name, model.version, batch)
        trace.on_batch(model.batcher.name, batch, model.batcher.queued)

    def on_fault(model: ModelVersion, fault: Fault) -> None:
        metrics.on_fault(model.name, model.version, fault)

    repository, follower = await load_models(config, on_batch, on_fault)
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
    add_routes(app.router, config)
    app.cleanup_ctx.extend(
        [
            *(_decoding, _fetching, _models, history),
            *(meanwhile(sample_gauges), meanwhile(share_model_stats)),
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
        app.cleanup_ctx.append(meanwhile(lambda _app: tracer.run()))
        app.on_cleanup.append(lambda _app: tracer.close())
    return app


def _open_later(app: web.Application, config: Config) -> Door:
    """Return what will accept connections, and leave without losing a request."""
    server, traffic = config.server, app[TRAFFIC]
    lines = LineBuffer(logging.getLogger("gunicorn.access"))
    door = Door(
        app,
        AccessLog(cast("logging.Logger", lines), server.log_format) if server.accesslog else None,
        CREW,
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

    async def spread(_app: web.Application) -> None:
        await door.opened()
        while True:
            door.spread()
            await asyncio.sleep(SPREAD_SECONDS)

    app.cleanup_ctx.extend([meanwhile(attend), meanwhile(spread)])
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


def _log_to_gunicorn() -> None:
    """Write our log where Gunicorn writes its errors."""
    logger.handlers = logging.getLogger("gunicorn.error").handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False

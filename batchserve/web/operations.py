"""What the operator asks: which models there are, and how they are doing."""

import asyncio
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from batchserve.repository import ModelVersion
from batchserve.tasks.kinds import input_of
from batchserve.web.body import media_types_of
from batchserve.web.formats import formats_for, names_of
from batchserve.web.keys import METRICS, REPOSITORY


async def list_models(request: web.Request) -> web.Response:
    """Answer with every version, its state and its settings."""
    models = [describe(version) for version in request.app[REPOSITORY].versions]
    return web.json_response({"models": models})


async def expose_metrics(request: web.Request) -> web.Response:
    """Answer in Prometheus's text format, for all workers together."""
    # On no thread that requests use: it must answer when they are many.
    text = await asyncio.to_thread(request.app[METRICS].exposition)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def describe(version: ModelVersion) -> dict[str, Any]:
    """Return what /models tells of a version."""
    config = version.config
    described: dict[str, Any] = {
        "name": version.name,
        "version": version.version,
        "state": version.state,
        "task": config.task,
        "precision": config.precision,
        "batching": config.batching.model_dump(),
    }
    if version.loaded:
        described["input"] = input_of(version.task)
        described["takes"] = list(media_types_of(version.task))
        described["gives"] = list(names_of(formats_for(version.task)))
        described["device"] = version.device
        described["max_batch_size"] = version.max_batch_size
        described["runner"] = version.batcher.runner.name
        described["forward_ms"] = {
            str(size): round(1000 * seconds, 3) for size, seconds in version.forward_s.items()
        }
    return described

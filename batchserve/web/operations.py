"""What the operator asks: which models there are, and how they are doing."""

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from batchserve.repository.follower import Follower
from batchserve.web.description import describe_all, describe_model
from batchserve.web.keys import FOLLOWER, METRICS, REPOSITORY


async def list_models(request: web.Request) -> web.Response:
    """Answer with every version, its state and its settings."""
    described = describe_all(request.app[REPOSITORY], await _fresh(request))
    return web.json_response({"models": described})


async def show_model(request: web.Request) -> web.Response:
    """Answer with one model's versions, which was, is and becomes current, and what is tried."""
    name, repository = request.match_info["name"], request.app[REPOSITORY]
    follower = await _fresh(request)
    metrics, is_tried = request.app[METRICS], name in repository.candidates
    readings = await asyncio.to_thread(lambda: [*metrics.readings()]) if is_tried else []
    return web.json_response(describe_model(repository, name, follower, readings))


async def expose_metrics(request: web.Request) -> web.Response:
    """Answer in Prometheus's text format, for all workers together."""
    # On no thread that requests use: it must answer when they are many.
    text = await asyncio.to_thread(request.app[METRICS].exposition)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _fresh(request: web.Request) -> Follower | None:
    """Return who knows what the other workers have, as of now."""
    follower = request.app.get(FOLLOWER)
    if follower is not None:
        await follower.refresh()
    return follower

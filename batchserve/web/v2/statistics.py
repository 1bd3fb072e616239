"""GET /v2/models/stats: the statistics of all workers together."""

import asyncio

from aiohttp import web

from batchserve.model_stats import described
from batchserve.web.keys import MODEL_STATS, REPOSITORY


async def stats(request: web.Request) -> web.Response:
    """Answer for all models, for one, or for one version of it, as the path says."""
    repository, kept = request.app[REPOSITORY], request.app[MODEL_STATS]
    name, version = request.match_info.get("name"), request.match_info.get("version")
    # For the error, if there is none of this name.
    repository.find(name, version)
    counts = await asyncio.to_thread(kept.of_all_workers)
    return web.json_response(
        {
            "model_stats": [
                described(found.name, found.version, counts)
                for found in repository.versions
                if name in (None, found.name) and version in (None, found.version)
            ]
        }
    )

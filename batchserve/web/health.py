"""Whether the process lives, and whether it would answer."""

from aiohttp import web

from batchserve.errors import NotReady
from batchserve.web.keys import REPOSITORY


async def live(_: web.Request) -> web.Response:
    """Answer as long as the event loop turns."""
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Answer 200 if every model would answer now, 503 with the reason otherwise."""
    repository = request.app[REPOSITORY]
    if repository.ready:
        return web.json_response({"status": "ready"})
    waiting = [version for version in repository.versions if not version.ready]
    raise NotReady(
        "; ".join(f"{version.name}:{version.version} is {version.condition}" for version in waiting)
    )

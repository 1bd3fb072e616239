"""Whether the process lives, and whether it would answer."""

from aiohttp import web

from batchserve.errors import Draining, NotReady
from batchserve.repository import ModelRepository
from batchserve.web.keys import REPOSITORY, TRAFFIC


async def live(request: web.Request) -> web.Response:
    """Answer as long as the event loop turns and no model is lost for good."""
    _check_not_lost(request.app[REPOSITORY])
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Answer 200 if all that could be loaded would answer now, 503 with the reason otherwise."""
    repository, traffic = request.app[REPOSITORY], request.app[TRAFFIC]
    _check_not_lost(repository)
    if traffic.draining:
        raise Draining(traffic.draining)
    if repository.ready:
        # Why, /models tells those who may know.
        failed = {"failed": list(repository.failed)} if repository.failed else {}
        return web.json_response({"status": "ready", **failed})
    waiting = [version for version in repository.versions if not version.ready]
    raise NotReady(
        "; ".join(f"{version.name}:{version.version} is {version.condition}" for version in waiting)
    )


def _check_not_lost(repository: ModelRepository) -> None:
    if repository.lost:
        raise NotReady(repository.lost)

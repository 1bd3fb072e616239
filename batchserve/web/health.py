"""Whether the process lives, and whether it would answer."""

from aiohttp import web

from batchserve.errors import Draining, NotReady
from batchserve.web.keys import REPOSITORY, TRAFFIC


async def live(request: web.Request) -> web.Response:
    """Answer as long as the event loop turns and no model is lost for good."""
    check_live(request.app)
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Answer 200 if all that could be loaded would answer now, 503 with the reason otherwise."""
    check_ready(request.app)
    # Why, /models tells those who may know.
    failed = list(request.app[REPOSITORY].failed)
    return web.json_response({"status": "ready", **({"failed": failed} if failed else {})})


async def ping(request: web.Request) -> web.Response:
    """Answer like `ready`, in the word that TorchServe's clients look for."""
    check_ready(request.app)
    return web.json_response({"status": "Healthy"})


def check_live(app: web.Application) -> None:
    """Raise if only another process can help.

    Raises:
        NotReady: a model is lost for good.
    """
    if lost := app[REPOSITORY].lost:
        raise NotReady(lost)


def check_ready(app: web.Application) -> None:
    """Raise unless all that could be loaded would answer now.

    Raises:
        NotReady, Draining: with the reason.
    """
    check_live(app)
    repository, traffic = app[REPOSITORY], app[TRAFFIC]
    if traffic.draining:
        raise Draining(traffic.draining)
    if not repository.ready:
        waiting = [version for version in repository.versions if not version.ready]
        raise NotReady(
            "; ".join(
                f"{version.name}:{version.version} is {version.condition}" for version in waiting
            )
        )

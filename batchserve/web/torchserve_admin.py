"""TorchServe's management API, as far as it makes sense here.

https://github.com/pytorch/serve/blob/master/docs/management_api.md
"""

from pathlib import PurePath
from typing import Any

from aiohttp import web

from batchserve.agreement import Outcome
from batchserve.errors import BadRequest, Conflict
from batchserve.web.admin import ACCEPTED, who
from batchserve.web.authority import administration
from batchserve.web.keys import ADMINISTRATION, CONFIG

FIRST_VERSION = "1"


@administration
async def register(request: web.Request) -> web.Response:
    """Load a file of the model folder: `POST /models?url=flowers.pt&model_name=flowers`."""
    query = request.query
    url = query.get("url")
    if not url:
        raise BadRequest("query parameter url: it names the file in server.model_folder to load")
    name = query.get("model_name") or PurePath(url).stem
    version = query.get("version", FIRST_VERSION)
    section: dict[str, Any] = {"source": url}
    for asked, key in (("batch_size", "max_batch_size"), ("max_batch_delay", "max_wait_ms")):
        if asked in query:
            section.setdefault("batching", {})[key] = _number(asked, query[asked])
    outcome = await request.app[ADMINISTRATION].load(name, version, section, by=who(request))
    return _respond(outcome, f'Model "{name}" Version: {version} registered')


@administration
async def scale(request: web.Request) -> web.Response:
    """Say that workers are not a model's: all of them have all models."""
    workers = request.app[CONFIG].server.workers
    raise Conflict(
        f"models are not scaled one by one: each of server.workers={workers} processes has them "
        f"all; change that in the config file, and reload"
    )


@administration
async def set_default(request: web.Request) -> web.Response:
    """Have a version answer where none is named."""
    name, version = request.match_info["name"], request.match_info["version"]
    outcome = await request.app[ADMINISTRATION].make_current(name, version, by=who(request))
    return _respond(outcome, f'Default version successfully updated for model "{name}"')


@administration
async def unregister(request: web.Request) -> web.Response:
    """Unload a version, or a model with all of them."""
    name, version = request.match_info["name"], request.match_info.get("version")
    outcome = await request.app[ADMINISTRATION].unload(name, version, by=who(request))
    return _respond(outcome, f'Model "{name}" unregistered')


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise BadRequest(f"query parameter {name}: {text!r} is not a whole number")
    return int(text)


def _respond(outcome: Outcome, status: str) -> web.Response:
    if outcome.done:
        return web.json_response({"status": status})
    return web.json_response({"status": "Processing"}, status=ACCEPTED)

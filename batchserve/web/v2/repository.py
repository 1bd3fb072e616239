"""Triton's model repository extension: load and unload a model, in all workers.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from aiohttp import web

from batchserve.errors import BadRequest
from batchserve.web.admin import who
from batchserve.web.authority import administration
from batchserve.web.body import check_head
from batchserve.web.keys import ADMINISTRATION, REPOSITORY
from batchserve.web.v2.schema import LoadParameters, LoadRequest, Section, parse

FIRST_VERSION = "1"


@administration
async def load(request: web.Request) -> web.Response:
    """Load a version that the body describes, or without one whatever is not loaded.

    Where all is loaded, the current version is loaded once more.
    """
    name, admin = request.match_info["name"], request.app[ADMINISTRATION]
    asked = (await _read(request)).parameters
    section = None if asked.config is None else parse(Section, asked.config.encode()).root
    if section is not None or asked.version is not None:
        versions = [asked.version or FIRST_VERSION]
    else:
        versions = admin.unloaded(name) or [request.app[REPOSITORY].find(name).version]
    for version in versions:
        await admin.load(name, version, section, make_current=asked.current, by=who(request))
    return web.json_response({})


@administration
async def unload(request: web.Request) -> web.Response:
    """Unload a model with all its versions, once those who ask it are answered."""
    asked = (await _read(request)).parameters
    await request.app[ADMINISTRATION].unload(
        request.match_info["name"], asked.version, by=who(request)
    )
    return web.json_response({})


async def _read(request: web.Request) -> LoadRequest:
    check_head(request)
    body = await request.read()
    asked = parse(LoadRequest, body) if body else LoadRequest(parameters=LoadParameters())
    files = [name for name in asked.parameters.model_extra or {} if name.startswith("file:")]
    if files:
        raise BadRequest(
            f"{files[0]}: files are not taken over HTTP; put it into server.model_folder, and name "
            f"it as the source in config"
        )
    return asked

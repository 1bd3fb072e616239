"""The pages for people: what is served and how to call it, and the HTTP interface to try."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from batchserve import __version__
from batchserve.errors import NotFound
from batchserve.repository import ModelVersion
from batchserve.repository.description import describe
from batchserve.web.keys import REPOSITORY

# Swagger UI as the package swagger-ui-py carries it, so that no outside host is asked.
SWAGGER_UI = Path(str(files("swagger_ui") / "static"))
ASSETS = {"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"}
NUMBERS_SHOWN = 100

templates = jinja2.Environment(
    loader=jinja2.PackageLoader("batchserve", "web/static"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
# Read now, because the event loop must not wait for a disk.
INDEX, DOCS = templates.get_template("index.html"), templates.get_template("docs.html")


async def index(request: web.Request) -> web.Response:
    """Say what is served and how to call it."""
    models = [
        {**describe(version), **_example(version)} for version in request.app[REPOSITORY].versions
    ]
    return _html(INDEX, origin=f"{request.scheme}://{request.host}", models=models)


async def docs(_: web.Request) -> web.Response:
    """Show /openapi.json in Swagger UI."""
    return _html(DOCS)


async def asset(request: web.Request) -> web.FileResponse:
    """Serve what the page at /docs loads."""
    name = request.match_info["name"]
    if name not in ASSETS:
        raise NotFound(f"there is no path {request.path}")
    return web.FileResponse(SWAGGER_UI / name)


def _example(version: ModelVersion) -> dict[str, Any]:
    """Return whether a version takes files, and otherwise a JSON body that it takes."""
    if not version.loaded or version.task.media_types:
        return {"takes_files": version.loaded, "body": ""}
    example = version.task.example()
    if example is None:
        guess = "[1.0, 2.0]" if version.config.task == "tensor" else "…"
        return {"takes_files": False, "body": f'{{"input": {guess}}}'}
    if example.numel() > NUMBERS_SHOWN:
        return {"takes_files": False, "body": f'{{"input": numbers of shape {[*example.shape]}}}'}
    return {"takes_files": False, "body": json.dumps({"input": example.tolist()})}


def _html(template: jinja2.Template, **values: object) -> web.Response:
    text = template.render(version=__version__, **values)
    return web.Response(text=text, content_type="text/html")

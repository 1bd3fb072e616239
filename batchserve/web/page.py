"""The pages for people: what is served and how to call it, and the HTTP interface to try."""

from importlib.resources import files
from pathlib import Path

import jinja2
from aiohttp import web

from batchserve import __version__
from batchserve.web.keys import REPOSITORY
from batchserve.web.operations import describe

# Swagger UI as the package swagger-ui-py carries it, so that no outside host is asked.
SWAGGER_UI = Path(str(files("swagger_ui") / "static"))

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
    versions = [
        {**describe(version), "takes_files": version.ready and bool(version.task.media_types)}
        for version in request.app[REPOSITORY].versions
    ]
    return _html(INDEX, origin=f"{request.scheme}://{request.host}", models=versions)


async def docs(_: web.Request) -> web.Response:
    """Show /openapi.json in Swagger UI."""
    return _html(DOCS)


def _html(template: jinja2.Template, **values: object) -> web.Response:
    text = template.render(version=__version__, **values)
    return web.Response(text=text, content_type="text/html")

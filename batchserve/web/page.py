"""The pages for people: try a model, watch the server, read the HTTP interface."""

import asyncio
from importlib.resources import files
from pathlib import Path

import jinja2
from aiohttp import web

from batchserve import __version__
from batchserve.errors import NotFound
from batchserve.samples import PHOTOS, as_jpeg, find_photos
from batchserve.web.authority import without_key

# Swagger UI as the package swagger-ui-py carries it, so that no outside host is asked.
SWAGGER_UI = Path(str(files("swagger_ui") / "static"))
SWAGGER_ASSETS = {
    name: SWAGGER_UI / name
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
}
STATIC = Path(__file__).parent / "static"
# Stated, because a machine may have its own opinion of what a suffix means.
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# All that the pages load; templates are rendered instead.
ASSETS = {path.name: path for path in STATIC.iterdir() if path.suffix in KINDS}
SAMPLES = find_photos()
# Nothing from elsewhere, no script in the page itself. A photo that was chosen is shown as a blob.
POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(STATIC),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def _render(name: str, **values: object) -> str:
    return templates.get_template(name).render(version=__version__, **values)


# Read and rendered now, because the event loop must not wait for a disk. What is served, the pages
# ask for themselves: models come and go, and may need a key.
TRY = _render("try.html", samples={name: PHOTOS[name] for name in SAMPLES})
DASHBOARD = _render("dashboard.html")
DOCS = _render("docs.html")


@without_key
async def index(_: web.Request) -> web.Response:
    """Show the page to try a model."""
    return web.Response(text=TRY, content_type="text/html", headers=HEADERS)


@without_key
async def dashboard(_: web.Request) -> web.Response:
    """Show the page to watch the server."""
    return web.Response(text=DASHBOARD, content_type="text/html", headers=HEADERS)


async def docs(_: web.Request) -> web.Response:
    """Show /openapi.json in Swagger UI."""
    return web.Response(text=DOCS, content_type="text/html")


@without_key
async def asset(request: web.Request) -> web.FileResponse:
    """Serve what the pages load."""
    path = _find(request, ASSETS)
    return web.FileResponse(path, headers={**HEADERS, "Content-Type": KINDS[path.suffix]})


async def docs_asset(request: web.Request) -> web.FileResponse:
    """Serve what the page at /docs loads."""
    return web.FileResponse(_find(request, SWAGGER_ASSETS))


@without_key
async def sample(request: web.Request) -> web.Response:
    """Serve a sample photo as JPEG."""
    name, _, kind = request.match_info["name"].rpartition(".")
    if kind != "jpg" or name not in SAMPLES:
        raise NotFound(f"there is no path {request.path}")
    photo = await asyncio.to_thread(as_jpeg, SAMPLES[name])
    return web.Response(body=photo, content_type="image/jpeg", headers=HEADERS)


def _find(request: web.Request, known: dict[str, Path]) -> Path:
    try:
        return known[request.match_info["name"]]
    except KeyError:
        raise NotFound(f"there is no path {request.path}") from None

"""The pages for people: what they load is there, and they ask no outside host for anything.

What they do in a browser: tests/e2e/test_browser.py.
"""

import hashlib
import html
import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from batchserve.config import Config
from batchserve.web import page
from batchserve.web.page import ASSETS, SAMPLES, STATIC
from tests.web.clients import Client

# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
PAGES = ["/", "/dashboard"]
# What was vendored, and stays as its authors made it: `npm pack uplot@1.6.32`.
VENDORED = {
    "uplot-1.6.32.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "uplot-1.6.32.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
SEVERAL = Config.model_validate(
    {
        "server": SERVER,
        "models": [
            {"name": "tiny", "source": "tests.models:tiny", "device": "cpu"},
            {"name": "double", "version": "2024-1", "source": "tests.models:Double"},
            {
                "name": "colour",
                "version": "7",
                "source": "tests.models:MeanColour",
                "task": "image-classification",
                "batching": {"policy": "fixed"},
            },
        ],
    }
)
# Attributes by which a page loads something or sends people somewhere.
LINKS = {"src", "href", "action", "data", "poster", "srcset", "formaction"}
IN_TEXT = re.compile(rf"""\b(?:{"|".join(LINKS)})\s*=\s*["']?([^"'\s>]*)|url\(\s*["']?([^"')]*)""")
OUTSIDE_IN_CODE = re.compile(
    r"""(?:\b(?:src|href)\s*[=:]\s*["'`]?|url\(\s*["'`]?|@import\s+["'])\s*(?:https?:)?//[^"'`)]*"""
)
IN_STYLES = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])([^"')]*)""")


class Page(HTMLParser):
    """What a page links to and loads, and what of it is script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.scripts = ""
        self.attributes: set[str] = set()
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within.append(tag)
        self.attributes |= {name for name, _ in attrs}
        links = [value for name, value in attrs if name in LINKS and value]
        self.links += links
        if tag in {"script", "link", "img"}:
            self.assets += [link for link in links if not link.startswith("data:")]

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._within:
            self.scripts += data


async def fetch(client: Client, path: str, **request) -> str:
    response = await client.get(path, **request)
    assert response.status == 200, path
    assert response.content_type == "text/html"
    return await response.text()


def outside(link: str) -> bool:
    """Return whether a browser would ask another host for this."""
    parts = urlsplit(link)
    return bool(parts.netloc) or parts.scheme not in {"", "data"}


# / and /dashboard.


@pytest.mark.parametrize("path", PAGES)
async def test_everything_that_a_page_loads_is_there(serve, path):
    client = await serve(SEVERAL)
    shown = Page(await fetch(client, path))
    kinds = set()
    for asset in shown.assets:
        response = await client.get(asset)
        assert response.status == 200, asset
        assert await response.read()
        kinds.add(response.content_type)
    assert {"text/css", "text/javascript", "image/svg+xml"} <= kinds


@pytest.mark.parametrize("path", PAGES)
async def test_the_pages_links_lead_somewhere(serve, path):
    client = await serve(SEVERAL)
    targets = [link for link in Page(await fetch(client, path)).links if link[0] != "#"]
    assert targets
    for target in targets:
        assert (await client.get(target)).status == 200, target


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_holds_no_script_and_no_style_and_forbids_both(serve, path):
    client = await serve(SEVERAL)
    response = await client.get(path)
    shown = Page(await response.text())
    assert shown.scripts.strip() == ""
    assert not {name for name in shown.attributes if name.startswith("on") or name == "style"}
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not policy.keys() & {"script-src", "style-src", "connect-src"}


async def test_the_modules_that_a_module_imports_are_there(serve):
    client = await serve(SEVERAL)
    imported = {
        name
        for asset, path in ASSETS.items()
        if asset.endswith(".js")
        for name in re.findall(r"""from "\./([^"]+)";""", path.read_text(encoding="utf-8"))
    }
    assert "uplot-1.6.32.js" in imported
    for name in imported:
        response = await client.get(f"/static/{name}")
        assert response.status == 200, name
        assert response.content_type == "text/javascript"


def test_every_asset_is_used():
    texts = [path.read_text(encoding="utf-8") for path in STATIC.iterdir()]
    texts.append('try.js try.css dashboard.js dashboard.css "')
    for name in ASSETS:
        assert any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts), name


@pytest.mark.parametrize(
    "name", ["layout.html", "nothing.js", "..%2Fpage.py", "uplot-1.6.32.LICENSE.txt"]
)
async def test_nothing_else_is_served(serve, name):
    client = await serve(SEVERAL)
    response = await client.get(f"/static/{name}")
    assert response.status == 404
    assert (await response.json())["code"] == "not_found"


async def test_a_browser_that_has_an_asset_is_not_sent_it_again(serve):
    client = await serve(SEVERAL)
    first = await client.get("/static/base.css")
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.get("/static/base.css", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status == 304


@pytest.mark.parametrize(("name", "digest"), VENDORED.items())
def test_what_others_made_is_as_they_made_it_and_has_its_licence(name, digest):
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
    licence = (STATIC / "uplot-1.6.32.LICENSE.txt").read_text(encoding="utf-8")
    assert "The MIT License" in licence
    assert "Leon Sorokin" in licence


async def test_sample_photos_are_offered_and_served(serve):
    client = await serve(SEVERAL)
    offered = re.findall(r'src="(/samples/[^"]+)"', await fetch(client, "/"))
    assert offered == [f"/samples/{name}.jpg" for name in SAMPLES]
    for url in offered:
        response = await client.get(url)
        assert response.status == 200
        assert response.content_type == "image/jpeg"


@pytest.mark.parametrize("name", ["moon.jpg", "coffee.png", "coffee", "jpg"])
async def test_no_other_photo_is_served(serve, name):
    client = await serve(SEVERAL)
    assert (await client.get(f"/samples/{name}")).status == 404


def test_without_samples_none_are_offered():
    assert "/samples/" not in page._render("try.html", samples={})


# Nothing from outside.


@pytest.mark.parametrize("path", [*PAGES, "/docs"])
async def test_a_page_refers_to_no_outside_host(serve, path):
    client = await serve(SEVERAL)
    text = await fetch(client, path)
    links = [first or second for first, second in IN_TEXT.findall(text)]
    assert links
    assert set(Page(text).links) <= set(map(html.unescape, links))
    assert [link for link in links if outside(link)] == []


@pytest.mark.parametrize("name", ASSETS)
def test_an_asset_refers_to_no_outside_host(name):
    text = ASSETS[name].read_text(encoding="utf-8")
    assert [match[0] for match in OUTSIDE_IN_CODE.finditer(text)] == []
    assert not re.search(r"""(?:fetch|import|open)\s*\(?\s*["'`]https?:""", text)


async def test_every_asset_of_the_docs_is_there(serve):
    client = await serve(SEVERAL)
    assets = Page(await fetch(client, "/docs")).assets
    kinds = {}
    for asset in assets:
        response = await client.get(asset)
        assert response.status == 200, asset
        assert await response.read()
        kinds[asset.rpartition(".")[2]] = response.content_type
    assert set(kinds) == {"js", "css", "png"}
    assert kinds["js"] in {"text/javascript", "application/javascript"}
    assert kinds["css"] == "text/css"
    assert kinds["png"] == "image/png"


async def test_the_assets_of_the_docs_refer_to_no_outside_host(serve):
    client = await serve(SEVERAL)
    checked = set()
    for asset in Page(await fetch(client, "/docs")).assets:
        response = await client.get(asset)
        if response.content_type.startswith("image/"):
            continue
        text = await response.text()
        assert [match[0] for match in OUTSIDE_IN_CODE.finditer(text)] == []
        for link in IN_STYLES.findall(text) if asset.endswith(".css") else []:
            if not link.startswith(("data:", "#")):
                assert (await client.get(urljoin(asset, link))).status == 200, link
        checked.add(asset.rpartition(".")[2])
    assert checked == {"js", "css"}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('<img src="https://a.example/b.png">', True),
        ("a.href = '//a.example/b'", True),
        ("{src: `http://a.example`}", True),
        ("background: url( 'https://a.example/b.png' )", True),
        ('@import "//a.example/b.css"', True),
        ('<img src="/docs/static/b.png">', False),
        ("url(data:image/svg+xml;base64,//8=)", False),
        ("see https://a.example", False),
    ],
)
def test_an_outside_host_would_be_found(code, found):
    assert bool(OUTSIDE_IN_CODE.search(code)) is found


# /docs.


async def test_the_docs_show_our_document(serve):
    client = await serve(SEVERAL)
    page = Page(await fetch(client, "/docs"))
    (url,) = re.findall(r"""\burl:\s*["']([^"']*)["']""", page.scripts)
    response = await client.get(url)
    assert response.status == 200
    assert "openapi" in await response.json()


async def test_the_docs_ask_no_validator(serve):
    client = await serve(SEVERAL)
    page = Page(await fetch(client, "/docs"))
    # Swagger UI's own default is an outside host.
    assert re.search(r"\bvalidatorUrl:\s*null\b", page.scripts)

"""The pages for people: what they name is there, and they ask no outside host for anything."""

import html
import itertools
import re
import shlex
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
from aiohttp import FormData

from batchserve.config import Config
from batchserve.web.keys import REPOSITORY
from tests.conftest import photo
from tests.web.clients import Client

# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
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
    """What a page links to, its blocks of commands, and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.commands: list[str] = []
        self.headings: list[str] = []
        self.scripts = ""
        self.tags: set[str] = set()
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._within.append(tag)
        links = [value for name, value in attrs if name in LINKS and value]
        self.links += links
        if tag in {"script", "link", "img"}:
            self.assets += [link for link in links if not link.startswith("data:")]
        if tag == "pre":
            self.commands.append("")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "pre" in self._within:
            self.commands[-1] += data
        if "h2" in self._within:
            self.headings[-1] += data
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


# /.


async def test_the_page_lists_every_version(serve):
    client = await serve(SEVERAL)
    page = Page(await fetch(client, "/"))
    headings = [" ".join(heading.split()) for heading in page.headings]
    assert headings == [
        "tiny version 1 ready",
        "double version 2024-1 ready",
        "colour version 7 ready",
    ]


async def test_the_page_tells_who_is_draining(serve):
    client = await serve(SEVERAL)
    client.app[REPOSITORY].drain()
    page = Page(await fetch(client, "/"))
    assert [heading.split()[-1] for heading in page.headings] == ["draining"] * 3


def curl(command: str) -> tuple[str, dict[str, str]]:
    """Return the URL of a curl command and its options that have a value."""
    words = shlex.split(command.partition("|")[2] or command, posix=True)
    assert words[0] == "curl"
    options = {
        name: value for name, value in itertools.pairwise(words) if re.fullmatch("-[A-Za-z]", name)
    }
    return words[-1], options


async def test_every_model_has_a_command_with_its_own_path(serve):
    client = await serve(SEVERAL)
    page = Page(await fetch(client, "/"))
    origin = str(client.make_url("/")).rstrip("/")
    urls = {curl(command)[0] for command in page.commands}
    assert urls == {
        f"{origin}/models/tiny/versions/1/predict",
        f"{origin}/models/double/versions/2024-1/predict",
        f"{origin}/models/colour/versions/7/predict",
    }
    for url in urls:
        response = await client.post(urlsplit(url).path, json={})
        # Found, and asked for something to predict from.
        assert response.status == 400


async def test_the_commands_with_json_are_answered(serve):
    client = await serve(SEVERAL)
    page = Page(await fetch(client, "/"))
    answered = 0
    for command in page.commands:
        url, options = curl(command)
        if "-d" in options and "|" not in command:
            kind = options["-H"].removeprefix("Content-Type: ")
            response = await client.post(
                urlsplit(url).path, data=options["-d"], headers={"Content-Type": kind}
            )
            assert response.status == 200, f"{command}\n{await response.text()}"
            answered += 1
    assert answered == 2


async def test_the_command_with_a_file_is_answered(serve):
    client = await serve(SEVERAL)
    page = Page(await fetch(client, "/"))
    (command,) = [command for command in page.commands if "-F" in command]
    url, options = curl(command)
    name, _, path = options["-F"].partition("=")
    assert path.startswith("@")
    form = FormData()
    form.add_field(name, photo("coffee", "JPEG"), filename=path.removeprefix("@"))
    response = await client.post(urlsplit(url).path, data=form)
    assert response.status == 200


async def test_the_pages_links_lead_somewhere(serve):
    client = await serve(SEVERAL)
    page = Page(await fetch(client, "/"))
    targets = [link for link in page.links if not link.startswith("data:")]
    assert targets
    for target in targets:
        assert (await client.get(target)).status == 200, target


MALICE = "<script>alert('&\"')</script>"


@pytest.mark.parametrize("field", ["name", "version"])
async def test_names_are_escaped(serve, monkeypatch, field):
    client = await serve(SEVERAL)
    # The config would not let such a name in.
    monkeypatch.setattr(client.app[REPOSITORY].versions[0], field, MALICE)
    text = await fetch(client, "/")
    assert MALICE not in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    page = Page(text)
    assert MALICE in html.unescape(page.headings[0])
    assert "script" not in page.tags


@pytest.mark.parametrize("host", ['"><script>alert(1)</script>', "<img/src=x/onerror=alert(1)>"])
async def test_the_host_that_a_client_states_is_escaped(serve, host):
    client = await serve(SEVERAL)
    response = await client.get("/", headers={"Host": host})
    text = await response.text()
    assert "<script" not in text
    assert "<img" not in text


async def test_the_commands_name_the_host_that_was_asked(serve):
    client = await serve(SEVERAL)
    text = await fetch(client, "/", headers={"Host": "models.example:8443"})
    urls = {curl(command)[0] for command in Page(text).commands}
    assert {urlsplit(url).netloc for url in urls} == {"models.example:8443"}


# Nothing from outside.


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_refers_to_no_outside_host(serve, path):
    client = await serve(SEVERAL)
    text = await fetch(client, path)
    links = [first or second for first, second in IN_TEXT.findall(text)]
    assert links
    assert set(Page(text).links) <= set(map(html.unescape, links))
    assert [link for link in links if outside(link)] == []


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

"""Files that are named by their address, and what an attacker would have us fetch."""

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from batchserve.config import FetchConfig
from batchserve.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    RequestError,
    TooLarge,
)
from batchserve.web.fetch import AT_ONCE, MOST_PER_REQUEST, MOST_REDIRECTS, Fetcher, Room
from tests.web.clients import until
from tests.web.test_body import COLOUR_MODEL, best_of, picture, text64
from tests.web.test_errors import check_error

# Stands for the internet: it alone is allowed. The rest of 127/8 is as private as it is.
OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
HOST = "images.example.org"
IMAGES = ("image/*", "application/octet-stream")
MOST_BYTES = 100_000


class Names(AbstractResolver):
    """A DNS that says what a test wants; each answer once, the last one for ever."""

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts = hosts
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self.hosts.get(host.replace(".", "_"))
        if not answers:
            raise OSError(None, "no such host")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer.split()
        ]

    async def close(self) -> None:
        pass


class Site:
    """A web server, and the requests that it got."""

    server: TestServer

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.open = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if "to" in request.query:
            status = int(request.query.get("status", "302"))
            return self._last(
                web.Response(status=status, headers={"Location": request.query["to"]})
            )
        name = request.match_info["name"]
        if name == "last.png":
            return self._last(web.Response(body=picture("r"), content_type="image/png"))
        if name == "endless.png":
            return await self._pour(request)
        if name == "slow.png":
            return await self._wait(request)
        return {
            "red.png": lambda: web.Response(body=picture("r"), content_type="image/png"),
            "green.png": lambda: web.Response(body=picture("g"), content_type="image/png"),
            "untyped": lambda: web.Response(body=picture("b")),
            "page.html": lambda: web.Response(text="<html>", content_type="text/html"),
            "packed.png": lambda: web.Response(
                body=gzip.compress(bytes(50_000_000)),
                headers={"Content-Encoding": "gzip", "Content-Type": "image/png"},
            ),
            "large.png": lambda: web.Response(body=bytes(MOST_BYTES + 1), content_type="image/png"),
            "half.png": lambda: web.Response(body=bytes(60_000), content_type="image/png"),
        }.get(name, lambda: web.Response(status=404))()

    def url(self, path: str, host: str = HOST) -> str:
        return f"http://{host}:{self.server.port}/{path}"

    def _last(self, response: web.Response) -> web.Response:
        """Have the next request come over another connection."""
        response.force_close()
        return response

    async def _pour(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        while True:
            await response.write(bytes(10_000))

    async def _wait(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        await response.write(b"\x89PNG")
        await self.open.wait()
        return response


Serve = Callable[..., Awaitable[Site]]


@pytest.fixture
async def site(aiohttp_server) -> AsyncIterator[Site]:
    """What may be fetched from."""
    found = await start(aiohttp_server, OUTSIDE)
    yield found
    found.open.set()


@pytest.fixture
async def inside(aiohttp_server, site) -> Site:
    """What must not be, at the same port of another address."""
    return await start(aiohttp_server, INSIDE, site.server.port)


async def start(aiohttp_server: Any, host: str, port: int | None = None) -> Site:
    found = Site()
    app = web.Application()
    app.router.add_get("/{name}", found.handle)
    found.server = await aiohttp_server(app, host=host, port=port)
    return found


@pytest.fixture
async def fetcher(site) -> AsyncIterator[Callable[..., Fetcher]]:
    """Return a function that makes a fetcher from `HOST`, at the site's port, changed as asked."""
    made: list[Fetcher] = []

    def make(names: Names | None = None, **changes) -> Fetcher:
        names = names or Names(images_example_org=[OUTSIDE])
        port = site.server.port
        config = {
            "hosts": [f"{HOST}:{port}", f"{OUTSIDE}:{port}", f"*.example.net:{port}"],
            "networks": [f"{OUTSIDE}/32"],
            "timeout_ms": 10_000,
            **changes,
        }
        made.append(Fetcher(FetchConfig.model_validate(config), MOST_BYTES, names))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def fetch(one: Fetcher, address: str) -> bytes:
    return await one.fetch(address, IMAGES, Room(MOST_BYTES))


async def refusal(one: Fetcher, address: str, kind: type[RequestError] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        await fetch(one, address)
    assert OUTSIDE not in str(caught.value) or OUTSIDE in address
    assert INSIDE not in str(caught.value) or INSIDE in address
    return str(caught.value)


# What is fetched.


async def test_a_file_is_fetched(site, fetcher):
    assert await fetch(fetcher(), site.url("red.png")) == picture("r")
    assert await fetch(fetcher(), site.url("untyped")) == picture("b")


@pytest.mark.parametrize(
    "host",
    ["IMAGES.Example.ORG", f"{HOST}.", f"{HOST}..", "images\u3002example\uff0eorg"],
    ids=ascii,
)
async def test_a_host_in_another_spelling_is_the_same_host(site, fetcher, host):
    names = Names(images_example_org=[OUTSIDE])
    assert await fetch(fetcher(names), site.url("red.png", host)) == picture("r")
    assert names.asked == [HOST]
    assert site.requests[0].host == f"{HOST}:{site.server.port}"


async def test_a_host_of_other_letters_is_that_of_the_dns(site, fetcher):
    names = Names(**{"xn--bcher-kva_example_net": [OUTSIDE]})
    assert await fetch(fetcher(names), site.url("red.png", "bücher.example.net")) == picture("r")
    assert await refusal(fetcher(names), site.url("red.png", "bücher.example.org"), Forbidden)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(site, fetcher, status):
    for to in (site.url("red.png"), "/red.png", "red.png", f"//{HOST}:{site.server.port}/red.png"):
        address = f"{site.url('x')}?status={status}&to={to}"
        assert await fetch(fetcher(), address) == picture("r")


async def test_nothing_of_ours_is_told(site, fetcher, monkeypatch):
    # Neither what it is, nor what another site had it keep, nor by way of somebody else.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    one = fetcher()
    for _ in range(2):
        await fetch(one, site.url("red.png"))
    headers = site.requests[-1].headers
    assert set(headers) == {"Host", "Accept", "Accept-Encoding", "User-Agent"}
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("batchserve/")


# What is refused.


@pytest.mark.parametrize(
    "address",
    [
        *("", "images.example.org", "//images.example.org/x", "http://", "http:///x", "http:x"),
        *("file:///etc/passwd", "ftp://images.example.org/x", "data:image/png;base64,AAAA"),
        *("gopher://images.example.org/x", "unix:/run/docker.sock", "javascript:1", "\x00"),
        *("http://[::1", "http://images.example.org:abc/", "http://images.example.org:99999/"),
        *("http://images.example.org\\@other.org/", "http://a\r\nHost: b/", "HTTP+UNIX://a/b"),
    ],
)
async def test_what_is_no_address_of_the_web(site, fetcher, address):
    await refusal(fetcher(), address)
    assert not site.requests


@pytest.mark.parametrize("user", ["name@", "name:password@", ":@", "other.org:80@", "name:@"])
async def test_a_name_in_the_address(site, fetcher, user):
    message = await refusal(fetcher(), site.url("red.png", f"{user}{HOST}"))
    assert "password" in message
    assert not site.requests


@pytest.mark.parametrize(
    "host",
    [
        *("other.org", "images.example.org.other.org", "other-images.example.org", "example.net"),
        *("127.0.0.1.nip.io", "localhost", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "0"),
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1%00", "[::ffff:7f00:1]"),
        *("other.org#.example.net", "other.org?.example.net", "a b.example.net", "%2e.example.net"),
    ],
)
async def test_a_host_that_nobody_allowed(site, fetcher, host):
    with pytest.raises((Forbidden, InvalidInput)):
        await fetch(fetcher(), site.url("red.png", host))
    assert not site.requests


async def test_the_operator_learns_where_to_allow_a_host(site, fetcher):
    message = await refusal(fetcher(), "https://other.org/x", Forbidden)
    assert "'other.org', port 443" in message
    assert "server.fetch.hosts" in message
    message = await refusal(fetcher(hosts=[]), site.url("red.png"), Forbidden)
    assert "server.fetch.hosts" in message


@pytest.mark.parametrize("port", ["", ":80", ":443", ":22", ":1"])
async def test_a_port_that_nobody_allowed(fetcher, port):
    await refusal(fetcher(), f"http://{HOST}{port}/red.png", Forbidden)


# Where a name leads.


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.2", "127.255.255.254", "0.0.0.0", "10.0.0.1", "169.254.169.254", "100.64.0.1"),
        *("::1", "::", "fd00::1", "fe80::1", "::ffff:127.0.0.2", "64:ff9b::7f00:2", "224.0.0.1"),
        *("2002:7f00:2::", "255.255.255.255", "100.100.100.200", "127.0.0.2 ::1 10.0.0.1"),
    ],
)
async def test_a_name_of_a_private_address(site, inside, fetcher, address):
    one = fetcher(Names(images_example_org=[address]))
    message = await refusal(one, site.url("red.png"), Forbidden)
    assert "server.fetch.networks" in message
    assert not site.requests
    assert not inside.requests


async def test_of_several_addresses_only_the_public_ones_are_asked(site, inside, fetcher):
    for addresses in (f"{INSIDE} {OUTSIDE}", f"{OUTSIDE} {INSIDE}"):
        one = fetcher(Names(images_example_org=[addresses]))
        assert await fetch(one, site.url("red.png")) == picture("r")
    assert not inside.requests


async def test_a_name_that_leads_elsewhere_the_second_time(site, inside, fetcher):
    """DNS rebinding: what was looked at is what is connected to, each time."""
    names = Names(images_example_org=[OUTSIDE, INSIDE])
    one = fetcher(names)
    assert await fetch(one, site.url("last.png")) == picture("r")
    assert names.asked == [HOST]
    await refusal(one, site.url("last.png"), Forbidden)
    assert names.asked == [HOST, HOST]
    assert not inside.requests


async def test_a_redirect_to_the_name_that_leads_elsewhere_by_then(site, inside, fetcher):
    names = Names(images_example_org=[OUTSIDE, INSIDE])
    await refusal(fetcher(names), f"{site.url('last.png')}?to=red.png", Forbidden)
    assert len(site.requests) == 1
    assert not inside.requests


async def test_a_redirect_to_another_name_that_leads_elsewhere(site, inside, fetcher):
    names = Names(a_example_net=[OUTSIDE], b_example_net=[INSIDE])
    address = f"{site.url('x', 'a.example.net')}?to={site.url('red.png', 'b.example.net')}"
    await refusal(fetcher(names), address, Forbidden)
    assert len(site.requests) == 1
    assert not inside.requests


@pytest.mark.parametrize(
    ("to", "kind"),
    [
        ("http://169.254.169.254/latest/meta-data/", Forbidden),
        ("http://[fd00:ec2::254]/latest/", Forbidden),
        ("http://127.0.0.2/", Forbidden),
        ("http://2852039166/", Forbidden),
        ("http://images.example.org:22/", Forbidden),
        ("//other.org/", Forbidden),
        ("file:///etc/passwd", InvalidInput),
        ("ftp://images.example.org/", InvalidInput),
        ("http://name@images.example.org/", InvalidInput),
        ("http://[", InvalidInput),
    ],
)
async def test_a_redirect_is_looked_at_as_any_address(site, fetcher, to, kind):
    await refusal(fetcher(), f"{site.url('x')}?to={to}", kind)
    assert len(site.requests) == 1


async def test_redirects_without_end(site, fetcher):
    message = await refusal(fetcher(), f"{site.url('x')}?to=?")  # to itself
    assert str(MOST_REDIRECTS) in message
    assert len(site.requests) == 1 + MOST_REDIRECTS


# What answers.


@pytest.mark.parametrize(
    ("path", "mentioned"),
    [
        ("nothing.png", "404"),
        ("page.html", "text/html"),
        ("packed.png", "compressed"),
    ],
)
async def test_what_is_no_image(site, fetcher, path, mentioned):
    assert mentioned in await refusal(fetcher(), site.url(path))


@pytest.mark.parametrize("path", ["large.png", "endless.png"])
async def test_more_than_there_is_room_for(site, fetcher, path):
    message = await refusal(fetcher(), site.url(path), TooLarge)
    assert "max_body_mb" in message


async def test_a_server_that_takes_its_time(site, fetcher):
    message = await refusal(fetcher(timeout_ms=50), site.url("slow.png"), DeadlineExceeded)
    assert "server.fetch.timeout_ms=50" in message


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\nzz\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\n\r\n",
        b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=range(9),
)
async def test_a_server_that_does_not_speak_http(fetcher, said):
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, OUTSIDE, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await refusal(fetcher(hosts=[f"{HOST}:{port}"]), f"http://{HOST}:{port}/x")


async def test_a_host_that_is_not_there(site, fetcher):
    names = Names(images_example_org=[OUTSIDE])
    with socket.create_server((OUTSIDE, 0)) as closed:
        port = closed.getsockname()[1]
    one = fetcher(names, hosts=[f"{HOST}:{port}"])
    assert "reached" in await refusal(one, f"http://{HOST}:{port}/x")
    nobody = fetcher(Names())
    assert "not known" in await refusal(nobody, site.url("red.png"))


async def test_a_host_without_tls(site, fetcher):
    await refusal(fetcher(), site.url("red.png").replace("http:", "https:"))
    assert not site.requests


# Many.


async def test_the_files_of_a_request_share_its_room(site, fetcher):
    addresses = dict(enumerate([site.url("half.png")] * 2))
    with pytest.raises(TooLarge) as caught:
        await fetcher().fetch_all(addresses, IMAGES, of=2)
    assert str(caught.value).startswith("inputs[")


async def test_a_request_names_only_so_many(site, fetcher):
    addresses = dict.fromkeys(range(MOST_PER_REQUEST + 1), site.url("red.png"))
    with pytest.raises(TooLarge, match=str(MOST_PER_REQUEST)):
        await fetcher().fetch_all(addresses, IMAGES, of=len(addresses))
    assert not site.requests


async def test_only_so_many_are_fetched_at_the_same_time(site, fetcher):
    one = fetcher()
    addresses = dict.fromkeys(range(2 * AT_ONCE), site.url("slow.png"))
    fetching = asyncio.create_task(one.fetch_all(addresses, IMAGES, of=len(addresses)))
    await until(lambda: len(site.requests) == AT_ONCE)
    site.open.set()
    assert len(await fetching) == len(site.requests) == 2 * AT_ONCE


# Through HTTP.


@pytest.fixture
def fetching(serve, site) -> Callable[..., Awaitable[Any]]:
    """Return a function that serves a model of images, which may be fetched from the site."""

    async def start(**changes) -> Any:
        allowed = {"hosts": [f"{OUTSIDE}:{site.server.port}"], "networks": [f"{OUTSIDE}/32"]}
        server = {"torch_threads": 1, "fetch": allowed, **changes}
        return await serve(**{**COLOUR_MODEL, "server": server})

    return start


@pytest.mark.parametrize(
    "path", ["/predict", "/models/colour/predict", "/models/colour/versions/1/predict"]
)
async def test_an_image_by_its_address(site, fetching, path):
    client = await fetching()
    red, green = site.url("red.png", OUTSIDE), site.url("green.png", OUTSIDE)
    for response in (
        await client.get(path, params={"url": red, "top_k": "1"}),
        await client.post(f"{path}?top_k=1", json={"input": {"url": red}}),
    ):
        assert response.status == 200, await response.text()
        assert response.headers["X-Batch-Size"] == "1"
        found = await response.json()
        assert [one["label"] for one in found["output"]] == ["r"]
    mixed = {"inputs": [{"url": red}, text64(picture("b")), {"url": green}]}
    outputs = (await (await client.post(path, json=mixed)).json())["outputs"]
    assert list(map(best_of, outputs)) == ["r", "b", "g"]
    several = await client.get(path, params=[("url", green), ("url", red)])
    assert list(map(best_of, (await several.json())["outputs"])) == ["g", "r"]


async def test_by_default_nothing_is_fetched(serve, site):
    client = await serve(**COLOUR_MODEL)
    red = site.url("red.png", OUTSIDE)
    for response in (
        await client.get("/predict", params={"url": red}),
        await client.post("/predict", json={"input": {"url": red}}),
        await client.post("/predict", json={"inputs": [text64(picture()), {"url": red}]}),
    ):
        await check_error(response, 403, "forbidden", "server.fetch.hosts")
    assert not site.requests


async def test_which_of_several_cannot_be_had(site, fetching):
    client = await fetching()
    good, bad = site.url("red.png", OUTSIDE), site.url("nothing", OUTSIDE)
    response = await client.post("/predict", json={"inputs": [{"url": good}, {"url": bad}]})
    message = await check_error(response, 422, "invalid_input", "404")
    assert message.startswith("inputs[1]: ")
    alone = await client.post("/predict", json={"input": {"url": bad}})
    assert (await check_error(alone, 422, "invalid_input", "404")).startswith("the address")


async def test_the_requests_own_deadline_counts(site, fetching):
    client = await fetching()
    response = await client.get(
        "/predict",
        params={"url": site.url("slow.png", OUTSIDE)},
        headers={"X-Request-Timeout-Ms": "50"},
    )
    await check_error(response, 504, "deadline_exceeded", "50 ms")


@pytest.mark.parametrize(
    "body",
    [
        {"input": {"url": 1}},
        {"input": {"url": "x", "more": 1}},
        {"input": {}},
        {"input": {"address": "x"}},
        {"inputs": {"url": "x"}},
    ],
    ids=json.dumps,
)
async def test_what_is_no_input_by_its_address(fetching, body):
    client = await fetching()
    response = await client.post("/predict", json=body)
    await check_error(response, 400, "bad_request")


async def test_a_get_that_names_nothing(fetching):
    client = await fetching()
    await check_error(await client.get("/predict"), 400, "bad_request", "?url=")
    await check_error(await client.get("/predict?uri=x"), 400, "bad_request", "uri")
    await check_error(await client.get("/predict?url="), 422, "invalid_input")
    posted = await client.post(
        "/predict?url=x", data=picture(), headers={"Content-Type": "image/png"}
    )
    await check_error(posted, 400, "bad_request", "query parameter url")


async def test_a_model_of_numbers_fetches_nothing(serve, site):
    client = await serve(source="tests.models:Double")
    red = site.url("red.png", OUTSIDE)
    await check_error(await client.get(f"/predict?url={red}"), 400, "bad_request", "POST")
    response = await client.post("/predict", json={"input": {"url": red}})
    await check_error(response, 422, "invalid_input", "not a number")
    assert not site.requests

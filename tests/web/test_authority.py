"""Attacks on administration and on predicting: without a token, with half of one, from outside."""

import asyncio
import hmac
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl
from aiohttp import web

from batchserve.web.authority import is_administration
from batchserve.web.keys import CONFIG, FOLLOWER
from batchserve.web.routes import ROUTES
from tests.ports import free_port
from tests.web.clients import Client

TOKEN = "correct-horse-battery"
KEYS = ["a-key-of-somebody-1", "a-key-of-somebody-2"]
DOUBLE = {"source": "tests.models:Double", "input_shape": [1]}
ADMIN = [
    ("PUT", "/admin/models/tiny/versions/2"),
    ("DELETE", "/admin/models/tiny/versions/1"),
    ("PUT", "/admin/models/tiny/current"),
    ("POST", "/admin/models/tiny/rollback"),
    ("PUT", "/admin/models/tiny/candidate"),
    ("DELETE", "/admin/models/tiny/candidate"),
    ("POST", "/admin/models/tiny/promote"),
]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def guarded(serve, tmp_path):
    """Return a function that serves with these settings of the server."""

    async def start(**server: Any) -> Client:
        if "admin_token" in server:
            server["state"] = str(tmp_path / "state.db")
        client: Client = await serve(server={"torch_threads": 1, **server}, **DOUBLE)
        return client

    return start


def test_the_attacks_know_every_path_of_administration():
    paths = {
        (route.method, route.path.replace("{name}", "tiny").replace("{version}", "*"))
        for route in ROUTES
        if is_administration(route.handler)
    }
    known = {(method, path.replace("/1", "/*").replace("/2", "/*")) for method, path in ADMIN}
    assert {(method, path) for method, path in paths if path.startswith("/admin")} == known


WITHOUT: list[dict[str, str]] = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": TOKEN},
    {"Authorization": f"Basic {TOKEN}"},
    bearer(TOKEN[:-1]),
    bearer(f"{TOKEN}x"),
    bearer(TOKEN.upper()),
    bearer(f"{TOKEN} {TOKEN}"),
    bearer("x" * 8000),
    bearer("\udcff\udcfe"),
    bearer("\N{CYRILLIC SMALL LETTER KA}"),
    {"X-API-Key": TOKEN},
    {"Cookie": f"token={TOKEN}"},
    bearer(KEYS[0]),
]


@pytest.mark.parametrize(("method", "path"), ADMIN)
async def test_nothing_is_changed_without_the_token(guarded, method, path):
    client = await guarded(admin_token=TOKEN, api_keys=KEYS)
    before = client.app[FOLLOWER].wanted
    for headers in WITHOUT:
        response = await _raw(client, method, path, headers)
        assert response.startswith(b"HTTP/1.1 401 "), headers
        assert b'\r\nWWW-Authenticate: Bearer realm="batchserve"\r\n' in response
        assert b'"code":"unauthorized"' in response
        assert TOKEN.encode() not in response
        assert client.app[FOLLOWER].wanted == before


async def _raw(client: Client, method: str, path: str, headers: dict[str, str]) -> bytes:
    """Ask with headers that no client library would send."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    lines = [f"{method} {path}?token={TOKEN} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    text = "\r\n".join([*lines, "Content-Length: 0", "", ""])
    writer.write(text.encode("utf-8", "surrogateescape"))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_read_as_http_says(guarded, scheme):
    client = await guarded(admin_token=TOKEN)
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    response = await client.post("/admin/models/tiny/rollback", headers=headers)
    assert response.status == 409


async def test_secrets_are_compared_in_constant_time_and_all_of_them(guarded, monkeypatch):
    client = await guarded(admin_token=TOKEN, api_keys=KEYS)
    compared: list[tuple[bytes, bytes]] = []

    def recorded(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", recorded)
    await client.post("/admin/models/tiny/rollback", headers=bearer("wrong"))
    assert compared == [(b"wrong", TOKEN.encode())]
    compared.clear()
    # The first one is right, and the others are compared all the same.
    response = await client.get("/models", headers=bearer(KEYS[0]))
    assert response.status == 200
    expected = [*KEYS, TOKEN]
    assert compared == [(KEYS[0].encode(), secret.encode()) for secret in expected]


# Without administration, it is as if there were none.


@pytest.mark.parametrize(("method", "path"), ADMIN)
async def test_without_a_token_in_the_config_there_is_no_such_path(guarded, method, path):
    client = await guarded()
    for headers in ({}, bearer(TOKEN), bearer("None"), bearer("")):
        response = await client.request(method, path, headers=headers)
        assert response.status == 404
        assert (await response.json())["error"].startswith(f"there is no path {path}")
    # Nor does another method tell that there could be one.
    assert (await client.get(path)).status == 404
    assert "/admin" not in await (await client.get("/openapi.json")).text()
    assert "workers" not in await (await client.get("/models")).text()


async def test_without_a_token_nothing_is_kept(guarded):
    client = await guarded()
    assert FOLLOWER not in client.app


async def test_the_token_is_shown_nowhere(guarded, caplog):
    with caplog.at_level("DEBUG"):
        client = await guarded(admin_token=TOKEN, api_keys=KEYS)
        pages = [
            await (await client.get(path, headers=bearer(TOKEN))).text()
            for path in ("/models", "/", "/openapi.json", "/metrics", "/readyz", "/debug/batches")
        ]
        await client.put(
            "/admin/models/tiny/versions/2", json={"source": "x:y"}, headers=bearer(TOKEN)
        )
    texts = [*pages, caplog.text, repr(client.app[CONFIG]), str(client.app[CONFIG])]
    for secret in (TOKEN, *KEYS):
        assert not any(secret in text for text in texts)


# An address of its own.


@pytest.mark.parametrize("kind", ["port", "wildcard", "unix"])
async def test_administration_answers_at_its_own_address_only(guarded, tmp_path: Path, kind):
    path, port = tmp_path / "admin.sock", free_port()
    bind = {"port": f"127.0.0.1:{port}", "wildcard": f"0.0.0.0:{port}", "unix": f"unix:{path}"}
    client = await guarded(admin_token=TOKEN, admin_bind=bind[kind])
    runner = client.server.runner
    assert runner is not None
    site: Any = web.UnixSite(runner, str(path))
    if kind != "unix":
        site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    rollback = "/admin/models/tiny/rollback"
    outside = await client.post(rollback, headers=bearer(TOKEN))
    assert outside.status == 404
    assert (await outside.json())["error"].startswith(f"there is no path {rollback}")
    # Whatever the request says of where it was sent.
    lying = {**bearer(TOKEN), "Host": f"127.0.0.1:{port}", "X-Forwarded-Port": str(port)}
    assert (await client.post(rollback, headers=lying)).status == 404

    connector: Any = aiohttp.UnixConnector(str(path)) if kind == "unix" else None
    base = "http://localhost" if kind == "unix" else f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(base, connector=connector) as inside:
        async with inside.post(rollback, headers=bearer(TOKEN)) as response:
            assert response.status == 409
        async with inside.post(rollback) as response:
            assert response.status == 401
        # A version is tried before it is made current.
        async with inside.post("/predict", json={"input": [1.0]}) as response:
            assert response.status == 200


# Keys for predicting.

OPEN = ["/livez", "/readyz", "/healthz", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready"]
# What is the same on every server, and where a person writes the key.
PAGES = ["/", "/dashboard", "/static/base.css", "/samples/coffee.jpg"]
CLOSED = [
    *("/models", "/models/tiny", "/docs", "/openapi.json", "/debug/batches", "/dashboard/data"),
    "/nowhere",
]


@pytest.mark.parametrize("path", CLOSED)
async def test_without_a_key_nothing_is_told(guarded, path):
    client = await guarded(api_keys=KEYS)
    for headers in ({}, bearer("wrong"), {"X-API-Key": "wrong"}, {"X-API-Key": ""}):
        response = await client.get(path, headers=headers)
        assert response.status == 401, path
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="batchserve"'
        assert "server.api_keys" in (await response.json())["error"]


@pytest.mark.parametrize("path", ["/predict", "/models/tiny/predict"])
async def test_without_a_key_nothing_is_predicted_nor_read(guarded, path):
    client = await guarded(api_keys=KEYS)
    response = await client.post(path, json={"input": [1.0]})
    assert response.status == 401
    for headers in (bearer(KEYS[0]), {"X-API-Key": KEYS[1]}):
        response = await client.post(path, json={"input": [1.0]}, headers=headers)
        assert (await response.json())["output"] == [2.0]


@pytest.mark.parametrize("path", PAGES)
async def test_the_pages_that_ask_for_a_key_need_none_and_tell_nothing(guarded, path):
    client = await guarded(api_keys=KEYS)
    response = await client.get(path)
    assert response.status == 200
    assert b"tiny" not in await response.read()


@pytest.mark.parametrize("path", OPEN)
async def test_probes_and_prometheus_need_no_key(guarded, path):
    client = await guarded(api_keys=KEYS, admin_token=TOKEN)
    assert (await client.get(path)).status == 200


async def test_a_path_that_begins_like_a_probe_is_none(guarded):
    client = await guarded(api_keys=KEYS)
    for path in ("/metrics/../models", "/livez/", "//livez", "/livez%2f..%2fmodels", "/LIVEZ"):
        async with aiohttp.ClientSession() as session:
            url = f"http://{client.host}:{client.port}{path}"
            async with session.get(yarl.URL(url, encoded=True)) as response:
                assert response.status == 401, path


async def test_the_operators_token_is_a_key_but_a_key_is_no_token(guarded):
    client = await guarded(api_keys=KEYS, admin_token=TOKEN)
    assert (await client.get("/models", headers=bearer(TOKEN))).status == 200
    rollback = "/admin/models/tiny/rollback"
    assert (await client.post(rollback, headers=bearer(KEYS[0]))).status == 401
    assert (await client.post(rollback, headers=bearer(TOKEN))).status == 409


async def test_without_keys_everybody_may_predict(guarded):
    client = await guarded(admin_token=TOKEN)
    assert (await client.post("/predict", json={"input": [1.0]})).status == 200

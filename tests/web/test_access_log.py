"""The access log: one line per request, which nobody can forge."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web

from batchserve.app import build_app
from batchserve.batch import CloseReason
from batchserve.testing import GatedRunner
from batchserve.testing.serving import DoorServer
from batchserve.web.access_log import AccessLog
from batchserve.web.door import Door
from batchserve.web.keys import REPOSITORY
from batchserve.web.line_buffer import LineBuffer
from tests.web.clients import Client, until

Logged = Callable[..., Awaitable[Client]]

LOGGER = "test.access"
TIME = r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z"
PEER = r"127\.0\.0\.1"
HEAD = r'"(?P<request>[^"]*)" (?P<status>\d{3}) (?P<bytes>\d+) bytes \d+\.\d ms id=(?P<id>\S+)'
MODEL = r"( code=(?P<code>\w+))?( model=(?P<model>\S+))?"
ANSWERED = r" batch=(?P<batch>\d+) queue=\d+\.\d forward=\d+\.\d"
LINE = re.compile(
    rf"{TIME} {PEER} {HEAD}( code=(?P<code>\w+))?( model=(?P<model>\S+))?({ANSWERED})?"
)


@pytest.fixture
def lines(caplog) -> Callable[[], list[str]]:
    """Return a function that returns the lines of the access log up to now."""
    caplog.set_level(logging.INFO, logger=LOGGER)
    return lambda: [
        line
        for record in caplog.records
        if record.name == LOGGER
        for line in record.getMessage().split("\n")
    ]


@pytest.fixture
def logged(aiohttp_client, configure, lines) -> Logged:
    """Return a function that serves a model as `serve` does, with the access log."""

    async def start(log_format="text", **changes) -> Client:
        app = await build_app(
            configure(
                **{"server": {"torch_threads": 1}, "source": "tests.models:Double", **changes}
            )
        )
        lines_to = LineBuffer(logging.getLogger(LOGGER), delay_s=0)
        log = AccessLog(lines_to, log_format)  # type: ignore[arg-type]
        client: Client = await aiohttp_client(DoorServer(app, log))
        return client

    return start


async def only_line(lines: Callable[[], list[str]]) -> str:
    # It is written just after the answer.
    await until(lines)
    (line,) = lines()
    return line


def parse(line: str) -> dict[str, Any]:
    match = LINE.fullmatch(line)
    assert match, line
    return match.groupdict()


@pytest.mark.parametrize(
    ("path", "body", "status", "model", "batch"),
    [
        ("/predict", {"input": [1]}, "200", "tiny:1", "1"),
        ("/models/tiny/predict", {"inputs": [[1], [2], [3]]}, "200", "tiny:1", "3"),
        ("/predict", {"input": "text"}, "422", "tiny:1", None),
        ("/predict", {"wrong": 1}, "400", "tiny:1", None),
        ("/predict?top_k=1", {"input": [1]}, "400", "tiny:1", None),
        ("/models/nobody/predict", {"input": [1]}, "404", None, None),
        ("/nothing", {"input": [1]}, "404", None, None),
        ("/models", {}, "405", None, None),
    ],
)
async def test_a_request_is_one_line(logged, lines, path, body, status, model, batch):
    client = await logged()
    response = await client.post(path, json=body, headers={"X-Request-Id": "mine-7"})
    length = len(await response.read())
    line = parse(await only_line(lines))
    # The head counts, too.
    assert int(line.pop("bytes")) > length
    assert line.pop("code") == (await response.json()).get("code")
    expected = {"request": f"POST {path}", "status": status, "id": "mine-7"}
    assert line == {**expected, "model": model, "batch": batch}


async def test_a_line_of_json(logged, lines):
    client = await logged(log_format="json")
    await client.post(
        "/predict?x", json={"inputs": [[1], [2]]}, headers={"X-Request-Id": 'mine-"7"'}
    )
    response = await client.post("/predict", json={"inputs": [[1], [2]]})
    length = len(await response.read())
    await until(lambda: len(lines()) == 2)
    refused, answered = (json.loads(line) for line in lines())
    assert refused["id"] == 'mine-"7"'
    assert (refused["path"], refused["status"], refused["model"]) == ("/predict?x", 400, "tiny")
    assert refused["code"] == "bad_request"
    assert "batch" not in refused
    assert re.fullmatch(TIME, answered.pop("time"))
    assert answered.pop("bytes") > length
    times = [answered.pop(name) for name in ("ms", "decode_ms", "queue_ms", "forward_ms")]
    assert times[0] >= times[2] + times[3] > 0
    assert answered.pop("reason") in set(CloseReason)
    assert answered == {
        "peer": "127.0.0.1",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "id": response.headers["X-Request-Id"],
        "model": "tiny",
        "version": "1",
        "batch": 2,
    }


@pytest.mark.parametrize(
    ("forwarded", "peer"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 2001:db8::7", "2001:db8::7"),
        ("", "unix"),
        ('1.1.1.1 "POST /forged"', "unix"),
    ],
)
@pytest.mark.parametrize(
    "asking",
    [
        lambda session, headers: session.get("http://localhost/models", headers=headers),
        lambda session, headers: session.post(
            "http://localhost/predict", json={"input": [1]}, headers=headers
        ),
    ],
    ids=["aiohttp", "fast path"],
)
async def test_the_peer_of_a_unix_socket_is_whom_the_proxy_names(
    configure, lines, tmp_path, forwarded, peer, asking
):
    app = await build_app(configure(source="tests.models:Double"))
    lines_to = LineBuffer(logging.getLogger(LOGGER), delay_s=0)
    runner = Door(app, AccessLog(lines_to, "text"))  # type: ignore[arg-type]
    await runner.setup()
    path = str(tmp_path / "x.sock")
    await web.UnixSite(runner, path).start()
    headers = {"X-Forwarded-For": forwarded}
    async with (
        ClientSession(connector=UnixConnector(path)) as session,
        asking(session, headers) as response,
    ):
        assert response.status == 200
    assert (await only_line(lines)).split('"')[0].split()[1:] == [peer]
    await runner.cleanup()


async def test_a_made_id_is_the_one_that_the_client_got(logged, lines):
    client = await logged()
    response = await client.post("/predict", json={"input": [1]})
    assert parse(await only_line(lines))["id"] == response.headers["X-Request-Id"]


async def test_the_line_has_the_batch_size_that_the_client_got(logged, lines):
    client = await logged(batching={"max_batch_size": 8})
    runner = client.app[REPOSITORY].versions[0].batcher.passes.runner = GatedRunner()
    first = asyncio.create_task(
        client.post("/predict", json={"input": [0]}, headers={"X-Request-Id": "0"})
    )
    await runner.wait_started()
    others = [
        asyncio.create_task(
            client.post("/predict", json={"input": [i]}, headers={"X-Request-Id": str(i)})
        )
        for i in (1, 2, 3)
    ]
    await until(lambda: client.app[REPOSITORY].versions[0].batcher.queued == 3)
    runner.release()
    runner.release()
    await asyncio.gather(first, *others)
    await until(lambda: len(lines()) == 4)
    parsed = [parse(line) for line in lines()]
    assert {line["id"]: line["batch"] for line in parsed} == {
        "0": "1",
        "1": "3",
        "2": "3",
        "3": "3",
    }


async def test_each_request_has_its_line(logged, lines):
    client = await logged()
    for i in range(5):
        await client.post("/predict", json={"input": [i]}, headers={"X-Request-Id": f"id-{i}"})
    await until(lambda: len(lines()) == 5)
    assert [parse(line)["id"] for line in lines()] == [f"id-{i}" for i in range(5)]


async def test_a_failed_model_is_one_line_too(logged, lines):
    client = await logged(source="tests.models:FailsOnNegative")
    await client.post("/predict", json={"input": [-1]})
    assert parse(await only_line(lines))["status"] == "500"


@pytest.mark.parametrize(
    "path",
    [
        *("/livez", "/readyz", "/healthz", "/ping", "/metrics"),
        *("/v2/health/live", "/v2/health/ready"),
    ],
)
@pytest.mark.parametrize("draining", [False, True])
async def test_probes_are_silent(logged, lines, path, draining):
    client = await logged()
    if draining:
        client.app[REPOSITORY].drain()
    await client.get(path)
    await client.head(path)
    await client.get(f"{path}?verbose=1")
    await client.get("/models")
    # The line of the last request is there, so those before it would be.
    assert parse(await only_line(lines))["request"] == "GET /models"


FORGED = '2026-01-01T00:00:00.000Z 127.0.0.1 "POST /forged" 200 5 bytes 1.0 ms id=forged'


@pytest.mark.parametrize(
    "target",
    [
        "/x%0A" + FORGED.replace(" ", "%20").replace('"', "%22"),
        "/x%0D%0A" + FORGED.replace(" ", "%20").replace('"', "%22"),
        "/models/x%0Ay/predict",
        "/x?q=%0A" + FORGED.replace(" ", "+"),
        "/x?%0D%0A=%0A",
        "/x%E2%80%A8y%C2%85z",
        "/x%00%1B[31m",
        '/x"%20200%205%20bytes"',
        '/x?"200',
    ],
)
async def test_a_path_cannot_forge_a_line(logged, lines, target):
    client = await logged()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 40")
    line = await only_line(lines)
    assert line.isprintable()
    # A space would begin another field.
    head = rf'{TIME} {PEER} "GET \S+" 40[45] \d+ bytes \d+\.\d ms id=[0-9a-f]{{32}} code=\w+'
    assert re.fullmatch(head, line)


@pytest.mark.parametrize("space", [" ", "\t", "\u2028", "\u0085", "\xa0"], ids=ascii)
async def test_a_request_id_cannot_forge_a_line(logged, lines, space):
    client = await logged()
    headers = {"X-Request-Id": f"mine{space}{FORGED}"}
    await client.post("/predict", json={"input": [1]}, headers=headers)
    line = await only_line(lines)
    assert "forged" not in line
    assert re.fullmatch("[0-9a-f]{32}", parse(line)["id"])


@pytest.mark.parametrize("newline", [b"\r\n ", b"\n", b"\n ", b"\r\n\t", b"\r"])
async def test_a_newline_in_a_request_id_cannot_forge_a_line(logged, lines, newline):
    client = await logged()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"GET /models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"X-Request-Id: mine" + newline + FORGED.encode() + b"\r\n\r\n"
    )
    await reader.read()
    writer.close()
    await writer.wait_closed()
    line = await only_line(lines)
    assert len(line.splitlines()) == 1
    assert "forged" not in line


@pytest.mark.parametrize("method", ["GET", "PURGE", "OPTIONS"])
async def test_any_method_is_one_line(logged, lines, method):
    client = await logged()
    await client.request(method, "/nothing")
    assert parse(await only_line(lines))["request"] == f"{method} /nothing"

"""`batchserve bench` as people use it: processes of its own, and real servers."""

import asyncio
import io
import json
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web
from rich.console import Console
from typer.testing import CliRunner, Result

from batchserve.bench.generator import Progress
from batchserve.bench.stage import closed
from batchserve.bench.view import SoFar, View
from batchserve.cli import main
from tests.bench.test_figures import figures
from tests.conftest import ROOT

Bench = Callable[..., Awaitable[Result]]
SHORT = ("--seconds", "0.2", "--warm-up", "0.1")


@pytest.fixture
def bench() -> Bench:
    async def call(*options: str) -> Result:
        arguments = ["bench", *options, *SHORT]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments)

    return call


@pytest.fixture
def listen(aiohttp_server) -> Callable[..., Awaitable[str]]:
    """Return a function that has a handler answer everything, and returns its address."""

    async def start(handler: Any) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = await aiohttp_server(app)
        return str(server.make_url("/"))

    return start


async def test_a_batchserve_needs_no_more_than_its_address(serve, bench, tmp_path: Path):
    # A machine that is busy for a moment must not fill the queue.
    client = await serve(
        source="tests.models:tiny", batching={"max_batch_size": 4, "max_queue_size": 10_000}
    )
    path = tmp_path / "numbers.json"
    result = await bench(
        str(client.make_url("/")), "--clients", "1,4", "--rate", "0.5x", "--slo-ms", "5000",
        "--json-out", str(path),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first, *lines = result.output.splitlines()
    assert "/models/tiny/predict: noise, float32[10]" in first
    assert [line.partition(":")[0] for line in lines[:2]] == ["1 client", "4 clients"]
    assert "the knee is at" in result.output
    numbers = json.loads(path.read_text(encoding="utf-8"))
    one, four, half = numbers["loads"]
    assert (one["clients"], four["clients"], half["clients"]) == (1, 4, 0)
    assert half["rate"] == pytest.approx(max(one["answered"], four["answered"]) / 2)
    assert set(one["parts_s"]) == {"decode", "queue", "forward"}
    assert one["batch_size"] == 1
    for load in numbers["loads"]:
        assert set(load["outcomes"]) == {"200"}
        assert load["goodput"] == pytest.approx(load["offered"])
    assert numbers["slo_s"] == 5


async def test_several_processes_share_the_load(listen, bench, tmp_path: Path):
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(await request.text())
        return web.Response()

    path = tmp_path / "numbers.json"
    result = await bench(
        await listen(answer), "--rate", "100", "--arrivals", "constant", "--processes", "2",
        "--json", '"a"', "--json", '"b"', "--json-out", str(path),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    # One of each beforehand, and 30 in 0.3 s.
    assert len(seen) == 32
    assert set(seen) == {'"a"', '"b"'}
    (load,) = json.loads(path.read_text(encoding="utf-8"))["loads"]
    assert load["offered"] == pytest.approx(100, abs=6)
    assert load["connected"] >= 2


async def test_headers_and_the_deadline_are_sent(listen, bench):
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.headers, request.method))
        return web.Response()

    result = await bench(
        await listen(answer), "-H", "X-API-Key: me", "--timeout-ms", "2500", "--method", "get",
        "--clients", "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for headers, method in seen:
        assert headers["X-API-Key"] == "me"
        assert headers["X-Request-Timeout-Ms"] == "2500"
        assert method == "GET"


async def test_a_unix_socket(bench, tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_get("/x", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    path = tmp_path / "x.sock"
    await web.UnixSite(runner, str(path)).start()
    result = await bench("http://any/x", "--unix-socket", str(path), "--clients", "2")
    assert result.exit_code == 0, result.output
    assert f"GET http://any/x on unix:{path}" in result.output.replace("\n", "")
    await runner.cleanup()


async def test_a_certificate_of_ones_own(aiohttp_server, bench, tmp_path: Path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)),
    ]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/", answer)
    server = await aiohttp_server(app, ssl=context)
    url = f"https://localhost:{server.port}/"
    result = await bench(url, "--method", "get", "-c", "2", "--cacert", str(cert))
    assert result.exit_code == 0, result.output
    refused = await bench(url, "--method", "get")
    assert refused.exit_code == 1
    assert "certificate verify failed" in refused.stderr


async def test_a_benchmark_of_errors_is_not_made(serve, bench):
    client = await serve()
    url = str(client.make_url("/predict"))
    result = await bench(url, "--json", '{"input": [1, 2]}')
    assert result.exit_code == 1
    assert result.stderr.startswith("batchserve: ")
    assert 'answers 422 to {"input": [1, 2]}: the input has shape [2], not nested' in result.stderr
    assert "offered/s" not in result.output


async def test_a_server_that_changes_its_mind_ends_the_benchmark(listen, bench):
    answers = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal answers
        answers += 1
        if answers < 10:
            return web.Response()
        return web.json_response({"error": "not you", "code": "forbidden"}, status=403)

    result = await bench(await listen(answer), "--json", "1", "--clients", "1")
    assert result.exit_code == 1
    assert "answers 403 forbidden: not you" in result.stderr
    # Nothing was sent once that was known.
    assert answers == 10


async def test_another_address_is_named(listen, bench):
    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    result = await bench(await listen(answer), "--json", "1")
    assert result.exit_code == 1
    assert "answers 302 to 1: see /elsewhere; give that address instead" in result.stderr


async def test_refusals_are_counted_and_explained(listen, bench):
    answers = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal answers
        answers += 1
        if answers % 2:
            return web.Response()
        return web.json_response({"error": "full", "code": "queue_full"}, status=503)

    result = await bench(
        await listen(answer), "--json", "1", "--rate", "100", "--arrivals", "constant"
    )
    assert result.exit_code == 0, result.output
    (counts,) = (line for line in result.output.splitlines() if "×" in line)
    assert re.fullmatch(
        r"100/s: (\d+ × 503 queue_full, \d+ × 200|\d+ × 200, \d+ × 503 queue_full)", counts
    )
    assert "503 queue_full: the queue was full" in result.output


async def test_it_draws(listen, bench, tmp_path: Path):
    pytest.importorskip("matplotlib")

    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    path = tmp_path / "drawn.svg"
    result = await bench(
        await listen(answer), "--clients", "1,2", "--rate", "50", "--slo-ms", "100",
        "--plot", str(path),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "<svg" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("ftp://h",), "is no address"),
        (("http://127.0.0.1:1",), "does not answer: [Errno 111] Connection refused"),
        (("unix:/nowhere.sock",), "No such file"),
        (("--clients", "many"), "write numbers of 1 or more"),
        (("--clients", "0"), "write numbers of 1 or more"),
        (("--rate", "fast"), "--rate fast: write requests/s"),
        (("--rate", "1,-2x"), "--rate 1,-2x"),
        (("--arrivals", "now"), "write poisson or constant"),
        (("--slo-ms", "0"), "write milliseconds above 0"),
        (("--timeout-ms", "-1"), "write milliseconds above 0"),
        (("--method", "head"), "whose answers have a body"),
        (("--header", "none"), "write NAME: VALUE"),
        (("--header", "x: …"), "Latin-1"),
        (("--json", "{"), "--json {: Expecting"),
        (("--file", "/nowhere"), "--file /nowhere: No such file"),
        (("--plot", "x.txt"), "the ending must be one of"),
    ],
)
async def test_mistakes_name_the_option_and_the_fix(bench, options, message):
    result = await bench(*options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_ctrl_c_prints_what_was_measured(listen):
    arrived = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("X-Request-Timeout-Ms"):
            arrived.set()
        return web.Response()

    command = [
        *(sys.executable, "-m", "batchserve.cli", "bench", await listen(answer), "--warm-up", "0"),
        *("--clients", "1,2,4", "--seconds", "3600", "--timeout-ms", "1000", "--json", "1"),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    await arrived.wait()  # the one beforehand
    arrived.clear()
    await arrived.wait()
    process.send_signal(signal.SIGINT)
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr
    assert b"1 client: " in stdout
    assert b"2 clients" not in stdout
    assert stderr == b""


def test_the_view_sums_up_what_processes_tell():
    now = SoFar()
    first, second = Progress(10, 8, 1, 1, [0.01] * 99), Progress(10, 9, 0, 1, [0.01])
    now.add(1.0, [first, second])
    now.add(2.0, [Progress(110, 108, 1, 1, [0.1]), second])
    assert str(now) == "100/s, p50 10 ms, p99 10.9 ms, 2 in flight, 1 failed"


def test_a_terminal_shows_a_bar_and_the_loads_before():
    console = Console(force_terminal=True, width=120, file=io.StringIO())
    stage = closed(4, 10, 0)
    with View(console, 2) as view:
        view.begin(stage)
        view.end(figures(name="1 client"))
        view.begin(stage)
        view.show(5.0, [Progress(10, 8, 1, 1, [0.01])])
        shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "4 clients (2 of 2)" in shown
    assert "1 in flight, 1 failed" in shown
    assert "1 client" in shown


def test_every_option_is_documented():
    documented = (ROOT / "docs" / "benchmarking.md").read_text(encoding="utf-8")
    options = [
        name
        for parameter in typer.main.get_command(main).commands["bench"].params  # type: ignore[attr-defined]
        for name in parameter.opts
        if name.startswith("--") and name != "--help"
    ]
    assert len(options) > 15
    assert not [name for name in options if f"`{name}`" not in documented]

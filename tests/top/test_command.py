"""`batchserve top` on a real server."""

import asyncio

import pytest
from aiohttp import web
from typer.testing import CliRunner

from batchserve.cli import main
from batchserve.top.command import watch
from batchserve.top.scrape import Unreachable, fetch, scrape


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")


async def test_it_shows_what_a_server_does(serve, capsys):
    client = await serve(source="tests.models:Double", slo_ms=1000)
    url = str(client.make_url("/"))
    watching = asyncio.create_task(asyncio.to_thread(watch, [url], 0.2, 2))
    while not watching.done():
        assert (await client.post("/predict", json={"input": [1]})).status == 200
    await watching
    printed = capsys.readouterr().out
    moments = [line.split() for line in printed.splitlines() if line.startswith("tiny:1")]
    assert len(moments) == 2
    assert all(float(moment[1]) > 0 for moment in moments)
    assert "of 1000 ms" in printed


async def test_it_reads_a_unix_socket(configure, tmp_path):
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text="batchserve_workers 3.0\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    path = tmp_path / "x.sock"
    await web.UnixSite(runner, str(path)).start()
    snapshot = await asyncio.to_thread(scrape, [f"unix:{path}"])
    assert snapshot.value("batchserve_workers") == 3
    await runner.cleanup()


async def test_what_is_no_batchserve_is_said_to_be_none(aiohttp_server):
    server = await aiohttp_server(web.Application())
    with pytest.raises(Unreachable, match=r"is not batchserve's \(status 404\)"):
        await asyncio.to_thread(fetch, str(server.make_url("/")))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:1", "Connection refused"),
        ("unix:/nowhere.sock", "No such file"),
        ("http://host:port", "is no address"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(address, message):
    result = CliRunner().invoke(main, ["top", address, "-n", "1"])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1

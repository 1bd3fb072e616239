"""/dashboard/data: what was recorded, for whoever asks; and that recording harms nobody."""

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchserve import metrics
from batchserve.history_log import HistoryLog
from batchserve.recorder import Recorder
from batchserve.web import dashboard
from batchserve.web.keys import HISTORY
from tests.web.clients import Client

LONG_AGO_S, SOON_S = 1.0, 4e9


async def points(client: Client, query: str = "") -> list[dict[str, Any]]:
    response = await client.get(f"/dashboard/data{query}")
    assert response.status == 200
    assert response.headers["Cache-Control"] == "no-store"
    body = await response.json()
    assert (body["every_s"], body["keeps_s"]) == (2, 600)
    found: list[dict[str, Any]] = body["points"]
    return found


async def append(client: Client, *at_s: float) -> None:
    log = client.app[HISTORY]
    for at in at_s:
        await asyncio.to_thread(log.append, at, b'{"at":%.1f}' % at)


async def leading(client: Client) -> None:
    """Wait until the recorder has had its first look."""
    while not await asyncio.to_thread((log_folder(client) / "history.lock").exists):  # noqa: ASYNC110
        await asyncio.sleep(0)


def log_folder(client: Client) -> Path:
    folder: Path = client.app[HISTORY]._path.parent
    return folder


async def test_the_recorded_points_are_answered_in_their_order(serve):
    client = await serve()
    await append(client, SOON_S, SOON_S + 2)
    assert [point["at"] for point in await points(client)] == [SOON_S, SOON_S + 2]


async def test_only_what_is_new_is_answered_if_asked_so(serve):
    client = await serve()
    await append(client, SOON_S, SOON_S + 2)
    assert [point["at"] for point in await points(client, f"?since={SOON_S}")] == [SOON_S + 2]


async def test_what_is_older_than_ten_minutes_is_left_out(serve):
    client = await serve()
    await append(client, LONG_AGO_S)
    assert await points(client) == []


@pytest.mark.parametrize("query", ["since=x", "since=nan", "since=inf", "since=", "until=3"])
async def test_another_query_is_refused(serve, query):
    client = await serve()
    response = await client.get(f"/dashboard/data?{query}")
    assert response.status == 400
    assert f"query parameter {query.split('=')[0]}:" in (await response.json())["error"]


async def test_the_server_records_by_itself(serve, monkeypatch):
    monkeypatch.setattr("batchserve.recorder.EVERY_S", 0)
    client = await serve()
    found: list[dict[str, Any]] = []
    while not found:
        await client.post("/predict", json={"input": [0] * 10})
        found = [point for point in await points(client) if point["models"].get("tiny:1")]
    assert found[0]["workers"] == 1
    assert found[0]["models"]["tiny:1"]["answers_per_s"]["200"] > 0


async def test_a_folder_of_its_own_is_gone_with_the_server(serve):
    client = await serve()
    await leading(client)
    folder = log_folder(client)
    await client.close()
    assert not folder.exists()


async def test_the_folder_that_workers_share_is_used_and_left(serve, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv(metrics.MULTIPROC_DIR, str(shared))
    client = await serve()
    await leading(client)
    assert log_folder(client) == shared
    await client.close()
    assert shared.exists()
    # Its lock is free: the next worker leads.
    other = HistoryLog(shared)
    assert other.lead()
    other.close()


async def test_a_folder_that_is_gone_is_told_and_requests_are_answered(
    serve, tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.setattr(dashboard, "RETRY_S", 0)
    monkeypatch.setenv(metrics.MULTIPROC_DIR, str(tmp_path / "gone"))
    client = await serve()
    while "history" not in caplog.text:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert "the history for /dashboard cannot be written" in caplog.text
    assert await points(client) == []
    assert (await client.post("/predict", json={"input": [0] * 10})).status == 200


async def test_a_file_that_could_not_be_read_once_is_worth_no_word(serve, monkeypatch, caplog):
    monkeypatch.setattr(dashboard, "RETRY_S", 0)
    monkeypatch.setattr("batchserve.recorder.EVERY_S", 0)
    record, errors = Recorder.record, iter([struct.error("unpack requires 4 bytes")])

    def fail_once(recorder: Recorder) -> float:
        for error in errors:
            raise error
        return record(recorder)

    monkeypatch.setattr(Recorder, "record", fail_once)
    client = await serve()
    while not await points(client):
        pass
    assert "history" not in caplog.text


async def test_recording_stops_with_the_server(serve):
    client = await serve()
    tasks: Callable[[], set[str]] = lambda: {task.get_name() for task in asyncio.all_tasks()}  # noqa: E731
    assert "history" in tasks()
    await client.close()
    assert "history" not in tasks()
    assert dashboard.KEEPS_S == 600

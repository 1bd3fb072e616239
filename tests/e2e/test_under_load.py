"""Life and death of workers while clients ask: what is lost, which is nothing but by `kill -9`."""

import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.e2e.conftest import APP, GUNICORN, Server, wait_for
from tests.e2e.load import Load

pytestmark = pytest.mark.e2e

DOUBLE = {"name": "double", "source": "tests.models:Double", "device": "cpu"}
SLOW = {**DOUBLE, "source": "tests.e2e.models:double_after_two_seconds"}
# Short, because Gunicorn waits for so long for workers that a broken reload leaves in place.
TWO = {"workers": 2, "drain_seconds": 2, "torch_threads": 1, "accesslog": None}


def wait_answered(load: Load, more: int, server: Server) -> None:
    """Return when each kind of client has got so many more answers."""
    before = dict(load.answered)
    wait_for(
        lambda: all(
            load.answered[kind] >= before.get(kind, 0) + more // (10 if kind == "thinking" else 1)
            for kind in ("kept", "thinking", "fresh")
        ),
        server,
    )


def wait_replaced(old: list[psutil.Process], server: Server) -> None:
    wait_for(lambda: not any(process.is_running() for process in old), server)


def assert_nothing_failed(load: Load) -> None:
    assert not load.lost
    assert not load.refused


def test_a_stop_loses_nothing_and_readiness_goes_first(launch):
    server = launch(DOUBLE, server={**TWO, "grace_seconds": 1})
    seen = []
    with Load(server.base) as load:
        wait_answered(load, 100, server)
        assert server.get("/readyz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        while server.process.poll() is None:
            try:
                answer = server.get("/readyz")
                seen.append((answer.status_code, answer.json().get("code")))
            except requests.exceptions.ConnectionError:
                seen.append((0, None))
    assert not load.lost
    assert sum(load.refused.values()) > 0
    assert server.process.returncode == 0
    assert "Traceback" not in server.output()
    distinct = list(dict.fromkeys(seen))
    assert distinct in ([(200, None), (503, "draining"), (0, None)], [(503, "draining"), (0, None)])


@pytest.mark.parametrize("model", [DOUBLE, SLOW], ids=["quick", "slow"])
def test_a_reload_fails_nobody(launch, model):
    server = launch(model, server=TWO)
    old = server.workers()
    unready = []
    with Load(server.base) as load:
        wait_answered(load, 100, server)
        server.process.send_signal(signal.SIGHUP)
        while any(process.is_running() for process in old):
            if server.get("/readyz").status_code != 200:
                unready.append(True)
        wait_answered(load, 100, server)
    assert_nothing_failed(load)
    assert not unready
    assert len(server.workers()) == 2
    assert "Traceback" not in server.output()


def test_reloads_one_after_the_other_fail_nobody(launch):
    server = launch(DOUBLE, server=TWO)
    with Load(server.base) as load:
        for _ in range(2):
            old = server.workers()
            wait_answered(load, 50, server)
            server.process.send_signal(signal.SIGHUP)
            # The second one comes while those of the first are loading.
            wait_for(lambda: len(server.workers()) == 4, server)
            server.process.send_signal(signal.SIGHUP)
            wait_replaced(old, server)
        wait_answered(load, 50, server)
    assert_nothing_failed(load)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ([*GUNICORN, "--max-requests", "300", "--max-requests-jitter", "100", APP], {}),
        (None, {"max_requests": 300}),
    ],
    ids=["option", "config"],
)
def test_max_requests_fails_nobody(launch, command, settings):
    server = launch(DOUBLE, server={**TWO, **settings}, command=command)
    with Load(server.base) as load:
        wait_for(lambda: server.output().count("leaving after") >= 4, server)
        server.wait_ready(6)
    assert_nothing_failed(load)


def connections(server: Server) -> list[int]:
    """Return how many connections each worker has."""
    port = int(server.base.rpartition(":")[2])
    found = []
    for worker in server.workers():
        # It may have ended meanwhile.
        with suppress(psutil.Error):
            ours = [c for c in worker.net_connections("tcp") if c.laddr.port == port]
            found.append(sum(c.status == "ESTABLISHED" for c in ours))
    return found


def test_connections_that_are_kept_are_shared_out_also_after_a_kill(launch):
    server = launch(DOUBLE, server=TWO)
    server.wait_ready(2)
    with Load(server.base, kept=12, thinking=0, fresh=0) as load:
        # What is less uneven than 8 to 4 is left as it is.
        wait_for(lambda: sum(found := connections(server)) == 12 and min(found) >= 4, server)
        server.workers()[0].kill()
        # Those that were connected to it come back to the other one, before there is a third.
        server.wait_ready(3)
        lost = len(load.lost)
        wait_for(lambda: sum(found := connections(server)) == 12 and min(found) >= 4, server)
        answered = load.answered["kept"]
        wait_for(lambda: load.answered["kept"] > answered + 1000, server)
    assert len(load.lost) == lost
    assert lost <= 8


def test_kill_9_fails_those_only_who_are_connected_to_that_worker(launch):
    server = launch(DOUBLE, server=TWO)
    with Load(server.base) as load:
        wait_answered(load, 100, server)
        server.workers()[0].kill()
        server.wait_ready(3)
        wait_answered(load, 100, server)
    assert not load.refused
    # Each client has one connection at most.
    assert len(load.lost) <= 12
    resets = ("ConnectionResetError", "RemoteDisconnected", "BrokenPipeError")
    assert all(any(kind in lost for kind in resets) for lost in load.lost)


def test_a_reload_to_a_broken_model_keeps_the_old_workers_until_it_is_mended(
    launch, tmp_path: Path
):
    server = launch(DOUBLE, server=TWO)
    old = server.workers()
    path = tmp_path / "config.yaml"
    good = path.read_text()
    with Load(server.base) as load:
        path.write_text(good.replace(":Double", ":broken"), encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.output().count("no such luck") >= 2, server)
        wait_answered(load, 50, server)
        assert all(process.is_running() for process in old)
        path.write_text(good.replace("name: double", "name: mended"), encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        wait_replaced(old, server)
        wait_answered(load, 50, server)
    assert_nothing_failed(load)
    assert server.post(json={"input": [1]}).json()["model"] == "mended"
    assert "Traceback" not in server.output()


def test_a_restarted_worker_that_cannot_start_tries_again(launch, tmp_path: Path):
    (tmp_path / "mine.py").write_text("from tests.models import Double as Mine")
    server = launch({**DOUBLE, "source": "mine:Mine"}, server=TWO)
    # Of another length: what Python has compiled it knows by that and by the second of the change.
    (tmp_path / "mine.py").write_text("from tests.models import broken as Mine  # for now")
    victim, survivor = server.workers()
    with Load(server.base, fresh=0) as load:
        victim.kill()
        wait_for(lambda: "the next attempt is in 5 s" in server.output(), server)
        (tmp_path / "mine.py").write_text("from tests.models import Double as Mine")
        server.wait_ready(3)
    assert survivor.is_running()
    assert server.post(json={"input": [1]}).status_code == 200
    assert len(load.lost) <= 8


def test_a_stop_during_a_reload_does_not_wait_for_the_new_models(launch, tmp_path: Path):
    server = launch(DOUBLE, server={**TWO, "drain_seconds": 30, "grace_seconds": 0.5})
    path = tmp_path / "config.yaml"
    endless = path.read_text().replace("tests.models:Double", "tests.e2e.models:slow_to_load")
    path.write_text(endless, encoding="utf-8")
    with Load(server.base) as load:
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.output().count(" loading ") >= 4, server)
        wait_answered(load, 50, server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert not load.lost


@pytest.mark.parametrize(
    ("fatal", "status", "reason"),
    [(-1, 503, "the test says so"), (-2, 504, "a forward pass has not returned for 1 s")],
    ids=["lost", "hung"],
)
def test_a_worker_that_is_broken_for_good_is_replaced(launch, fatal, status, reason):
    model = {"source": "tests.e2e.models:Losable", "batching": {"max_batch_size": 1}}
    server = launch({**DOUBLE, **model}, server={**TWO, "hang_seconds": 1})
    old = {process.pid: process for process in server.workers()}
    with requests.Session() as session:
        response = session.post(f"{server.base}/predict", json={"input": [fatal]}, timeout=30)
        assert response.status_code == status
        assert reason in response.json()["error"]
        with Load(server.base) as load:
            wait_for(lambda: any(not process.is_running() for process in old.values()), server)
            server.wait_ready(3)
            wait_answered(load, 50, server)
    assert not load.refused
    # Whoever reaches the worker that goes is told to try again, and no more.
    assert all(": 503 " in lost for lost in load.lost)
    assert reason in server.output()
    assert len(old.keys() & {process.pid for process in server.workers()}) == 1

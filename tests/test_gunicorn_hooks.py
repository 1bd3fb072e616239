"""What Gunicorn's hooks do, without Gunicorn; `tests/e2e` has the whole."""

import os
import signal
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from batchserve import gunicorn_hooks
from batchserve.crew import Crew
from batchserve.lineage import Lineage
from batchserve.signals import STOP_SIGNALS


@pytest.fixture(autouse=True)
def lineage(monkeypatch: pytest.MonkeyPatch) -> Lineage:
    """Return a lineage that is this test's own."""
    own = Lineage()
    monkeypatch.setattr(gunicorn_hooks, "LINEAGE", own)
    monkeypatch.setattr(gunicorn_hooks, "RETRY_S", 0)
    return own


@pytest.fixture
def arbiter() -> Any:
    cfg = Config()
    cfg.set("graceful_timeout", 25)
    seen: list[int] = []
    return SimpleNamespace(cfg=cfg, seen=seen, signal=lambda number, _frame: seen.append(number))


@pytest.fixture
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_is_announced_before_gunicorn_acts_on_it(arbiter, lineage, number):
    worker = Lineage()
    worker._shared = lineage._shared
    gunicorn_hooks.when_ready(arbiter)
    gunicorn_hooks.on_reload(arbiter)
    assert arbiter.cfg.graceful_timeout == 0
    signal.raise_signal(number)
    assert arbiter.seen == [number]
    assert arbiter.cfg.graceful_timeout == 25
    assert (worker.superseded, worker.expects_successor) == (True, False)


@pytest.mark.usefixtures("_signals_as_before")
def test_a_stop_without_a_reload_waits_as_configured(arbiter):
    gunicorn_hooks.when_ready(arbiter)
    signal.raise_signal(signal.SIGTERM)
    assert arbiter.cfg.graceful_timeout == 25


def end_worker(code: int, pid: int) -> int:
    """Return the code with which a worker ends that wants to end with the one given."""
    try:
        try:
            sys.exit(code)
        finally:
            gunicorn_hooks.worker_exit(None, SimpleNamespace(pid=pid))
    except SystemExit as ended:
        return int(str(ended.code))


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize(("code", "other_code"), [(0, 0), (1, 1), (3, 1), (4, 1)])
def test_a_worker_that_cannot_start_does_not_end_a_server_that_has_been_ready(
    lineage, code, other_code
):
    assert end_worker(code, os.getpid()) == code
    lineage.announce_ready()
    assert end_worker(code, os.getpid()) == other_code
    # In the master, for a worker that is gone.
    assert end_worker(code, os.getpid() + 1) == code


@pytest.mark.usefixtures("_signals_as_before")
def test_of_two_workers_that_cannot_start_one_ends_the_server(lineage, monkeypatch):
    other = Lineage()
    other._shared = lineage._shared
    assert end_worker(3, os.getpid()) == 3
    monkeypatch.setattr(gunicorn_hooks, "LINEAGE", other)
    assert end_worker(3, os.getpid()) == 1


def test_the_first_worker_knows_that_it_is(lineage, monkeypatch):
    monkeypatch.setattr(gunicorn_hooks, "_watch_boot", lambda worker: None)
    for age, first in ((1, True), (2, False)):
        gunicorn_hooks.post_fork(None, SimpleNamespace(age=age, max_requests=5, cfg=Config()))
        assert lineage.first is first


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    """Return a crew that is this test's own."""
    own = Crew()
    monkeypatch.setattr(gunicorn_hooks, "CREW", own)
    monkeypatch.setattr(gunicorn_hooks, "_watch_boot", lambda worker: None)
    return own


def make_worker(workers: int, **settings: Any) -> Any:
    cfg = Config()
    for name, value in {"workers": workers, **settings}.items():
        cfg.set(name, value)
    sock = socket.socket()
    sock.set_inheritable(True)
    return SimpleNamespace(
        age=2,
        max_requests=5,
        cfg=cfg,
        sockets=[SimpleNamespace(sock=sock)],
        _create_ssl_context=lambda cfg: f"made of {cfg.certfile}",
    )


def test_several_workers_listen_as_a_crew(crew):
    worker = make_worker(2)
    (listener,) = worker.sockets
    gunicorn_hooks.post_fork(None, worker)
    assert (crew.sockets, crew.make_tls) == ([listener.sock], None)
    assert not worker.sockets  # those on which aiohttp's worker would listen
    assert not listener.sock.get_inheritable()
    listener.sock.close()


def test_several_workers_listen_with_tls(crew, tmp_path):
    certificate = tmp_path / "cert.pem"
    certificate.touch()
    worker = make_worker(2, certfile=str(certificate))
    gunicorn_hooks.post_fork(None, worker)
    assert crew.make_tls() == f"made of {certificate}"
    crew.sockets[0].close()


def test_a_single_worker_listens_as_aiohttps_does(crew):
    worker = make_worker(1)
    gunicorn_hooks.post_fork(None, worker)
    assert not crew.sockets
    worker.sockets[0].sock.close()


def test_the_place_of_a_worker_that_ended_is_anothers(crew):
    workers = [SimpleNamespace() for _ in range(3)]
    gunicorn_hooks.pre_fork(None, workers[0])
    gunicorn_hooks.pre_fork(None, workers[1])
    gunicorn_hooks.child_exit(None, workers[0])
    gunicorn_hooks.pre_fork(None, workers[2])
    assert [worker.batchserve_place for worker in workers] == [0, 1, 0]


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize(
    ("booted", "done"), [(False, ["end"]), (True, [signal.SIGTERM])], ids=["loading", "serving"]
)
def test_a_stop_that_comes_as_the_worker_begins_to_serve_is_not_obeyed_at_once(
    monkeypatch, booted, done
):
    worker = SimpleNamespace(booted=False, notify=lambda: None)
    seen: list[Any] = []

    def take_signal(_numbers: Any, _timeout: float) -> Any:
        worker.booted = booted
        return SimpleNamespace(si_signo=signal.SIGTERM)

    def end(_code: int) -> None:
        seen.append("end")
        worker.booted = True

    monkeypatch.setattr(signal, "sigtimedwait", take_signal)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(os, "kill", lambda _pid, number: seen.append(number))
    gunicorn_hooks._watch_boot(worker)
    for thread in threading.enumerate():
        if thread.name == "boot":
            thread.join()
    assert seen == done

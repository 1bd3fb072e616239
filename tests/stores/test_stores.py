"""One contract for all stores: memory, a file, and Redis."""

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from batchserve.stores import open_store
from batchserve.stores.base import Reading, Store, StoreError
from batchserve.stores.memory import MemoryStore
from batchserve.stores.sqlite import SqliteStore

AGES_S = 1000.0
Open = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def opened(request, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens one and the same store again, as another worker does."""
    stores: list[Store] = []
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    memory = MemoryStore()
    if url:
        redis.Redis.from_url(url).flushall()

    def open_it() -> Store:
        store: Store = memory
        if request.param != "memory":
            store = open_store(url or str(tmp_path / "state.db"))
        stores.append(store)
        return store

    yield open_it
    for store in stores:
        store.close()


def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_s


def test_it_is_empty_at_first(opened: Open):
    assert opened().read() == Reading(0, "", {})


def test_a_document_is_there_for_everybody_and_after_everybody_has_gone(opened: Open):
    first, second = opened(), opened()
    assert first.replace(1, "one ✓")
    assert second.read() == Reading(1, "one ✓", {})
    first.close()
    second.close()
    assert opened().read() == Reading(1, "one ✓", {})


def test_whoever_knows_the_document_need_not_read_it_again(opened: Open):
    store = opened()
    store.replace(1, "one")
    assert store.read(known=1) == Reading(1, None, {})
    assert store.read(known=0).document == "one"


@pytest.mark.parametrize("revision", [0, 2, 7])
def test_only_the_next_revision_is_taken(opened: Open, revision):
    store = opened()
    assert not store.replace(revision, "wrong")
    assert store.read().revision == 0
    assert store.replace(1, "right")
    assert not store.replace(1, "late")
    assert store.read().document == "right"


def test_of_many_who_write_at_the_same_time_one_wins(opened: Open):
    stores = [opened() for _ in range(4)]
    won: list[int] = []

    def write(number: int) -> None:
        for revision in range(1, 21):
            if stores[number].replace(revision, str(number)):
                won.append(revision)
            while stores[number].read().revision < revision:
                pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(1, 21))


def test_reports_are_there_until_they_are_replaced_or_forgotten(opened: Open):
    first, second = opened(), opened()
    first.report("a", "ready", AGES_S)
    second.report("b", "loading", AGES_S)
    assert first.read().reports == second.read().reports == {"a": "ready", "b": "loading"}
    second.report("b", "ready", AGES_S)
    first.forget("a")
    first.forget("nobody")
    assert first.read().reports == {"b": "ready"}


def test_a_report_that_is_not_renewed_is_forgotten(opened: Open):
    store = opened()
    store.report("dead", "ready", 0.02)
    store.report("alive", "ready", AGES_S)
    until(lambda: store.read().reports == {"alive": "ready"})
    store.report("dead", "back", AGES_S)
    assert store.read().reports == {"alive": "ready", "dead": "back"}


# What is SQLite's alone.


def test_after_the_machine_was_started_anew_nobody_is_alive(tmp_path: Path):
    now_s = [50_000.0]
    store = SqliteStore(tmp_path / "state.db", clock=lambda: now_s[0])
    store.report("before", "ready", 10)
    now_s[0] = 3.0
    assert store.read().reports == {}
    store.report("after", "ready", 10)
    assert store.read().reports == {"after": "ready"}
    store.close()


@pytest.mark.parametrize("does", ["read", "report"])
def test_who_reports_while_another_looks_at_the_clock_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
):
    monkeypatch.setattr("batchserve.stores.sqlite.BUSY_S", 0.0)
    path, now_s = tmp_path / "state.db", [1.0]
    other = SqliteStore(path, clock=lambda: now_s[0])
    other.report("other", "ready", 10)

    def clock() -> float:
        looked_s, now_s[0] = now_s[0], now_s[0] + 1
        # Whoever writes may have to wait.
        with suppress(StoreError):
            other.report("other", "busy", 10)
        return looked_s

    store = SqliteStore(path, clock)
    if does == "report":
        store.report("mine", "ready", 10)
    else:
        assert "other" in store.read().reports
    assert "other" in other.read().reports
    store.close()
    other.close()


def test_only_its_owner_may_read_or_write_the_file(tmp_path: Path):
    store = open_store(str(tmp_path / "state.db"))
    store.replace(1, "one")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("state.db*")}
    assert modes == {0o600}
    store.close()


def test_of_workers_that_begin_at_once_all_can(tmp_path: Path):
    begins = threading.Barrier(4)
    failed: list[StoreError] = []

    def begin(worker: int) -> None:
        for i in range(60):
            begins.wait()
            try:
                store = open_store(str(tmp_path / f"{i}.db"))
                store.report(str(worker), "ready", 10)
                store.close()
            except StoreError as error:
                failed.append(error)

    workers = [threading.Thread(target=begin, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    for i in range(60):
        store = open_store(str(tmp_path / f"{i}.db"))
        assert store.read().reports.keys() == {"0", "1", "2", "3"}
        store.close()
    # Only now: of two that close at once, each takes the other for one who still needs the log
    # beside the file; whoever is the last to close alone takes it away.
    assert {path.name for path in tmp_path.iterdir()} == {f"{i}.db" for i in range(60)}


def test_a_worker_that_is_slower_to_make_the_file_uses_that_of_the_other(tmp_path, monkeypatch):
    path = str(tmp_path / "state.db")
    stores: list[Store] = []
    link = os.link

    def link_later(made, name):
        monkeypatch.setattr(os, "link", link)
        stores.append(open_store(path))
        link(made, name)

    monkeypatch.setattr(os, "link", link_later)
    slow = open_store(path)
    (fast,) = stores
    fast.report("fast", "ready", 10)
    slow.report("slow", "ready", 10)
    assert fast.read().reports == slow.read().reports == {"fast": "ready", "slow": "ready"}
    slow.close()
    fast.close()


@pytest.mark.parametrize("kind", ["not a database", "missing folder", "folder", "other release"])
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path: Path, kind):
    path = tmp_path / "state.db"
    if kind == "not a database":
        path.write_text("x" * 1000)
    elif kind == "missing folder":
        path = tmp_path / "missing" / "state.db"
    elif kind == "folder":
        path.mkdir()
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    with pytest.raises(StoreError, match=r"server\.state: ") as caught:
        open_store(str(path))
    assert str(path) in str(caught.value)
    assert "move" in str(caught.value)


# What is Redis's alone.


def test_redis_that_is_not_there_is_named_without_its_password():
    store = open_store("redis://me:hunter2@127.0.0.1:1/0")
    with pytest.raises(StoreError, match=r"Redis at 127\.0\.0\.1:1/0 cannot be used") as caught:
        store.read()
    assert "hunter2" not in str(caught.value)
    store.close()


def test_without_its_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("batchserve.stores.redis.redis", None)
    with pytest.raises(StoreError, match=r"install 'batchserve\[redis\]'"):
        open_store("redis://127.0.0.1/0")


@pytest.mark.parametrize("kind", [redis.Redis, redis.client.Pipeline], ids=["before", "while"])
def test_a_worker_that_comes_back_as_it_is_struck_off_stays(redis_url: str, monkeypatch, kind):
    """Before somebody else asks once more whether its report has expired, or after that."""
    redis.Redis.from_url(redis_url).flushall()
    back, other = open_store(redis_url), open_store(redis_url)
    back.report("back", "ready", AGES_S)
    redis.Redis.from_url(redis_url).delete("batchserve:report:back")
    asks = "mget" if kind is redis.Redis else "exists"
    ask = getattr(kind, asks)

    def ask_then_come_back(self, *names):
        found = ask(self, *names)
        back.report("back", "ready", AGES_S)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(kind, asks, ask_then_come_back)
        assert other.read().reports == {}
    assert other.read().reports == {"back": "ready"}
    back.close()
    other.close()


def test_a_worker_whose_report_has_expired_is_struck_off(redis_url: str):
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    store = open_store(redis_url)
    for worker in ("gone", "here"):
        store.report(worker, "ready", AGES_S)
    client.delete("batchserve:report:gone")
    assert store.read().reports == {"here": "ready"}
    assert client.smembers("batchserve:workers") == {b"here"}
    store.close()

"""Workers that share a store, in one process: they load, agree, fail, die and come back."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import redis
from torch import nn

from batchserve.config import ModelConfig
from batchserve.errors import Conflict, Forbidden, LoadError, StartupError, StoreUnavailable
from batchserve.loading import load_module
from batchserve.repository import ModelRepository, State, operations, version
from batchserve.repository.follower import Follower, Identity
from batchserve.repository.wanted import Candidate
from batchserve.runners import warmup
from batchserve.stores import open_store
from batchserve.stores.base import Reading, StoreError
from batchserve.stores.memory import MemoryStore
from tests.models import Double

MODEL = {"name": "m", "source": "tests.models:Double", "input_shape": [1], "device": "cpu"}
BATCHING = {"batching": {"max_batch_size": 2}}
NEW = {**MODEL, **BATCHING}
Start = Callable[..., Awaitable[Follower]]


class Luck:
    """Lets as many versions be made as the test says."""

    left = 10**6

    @classmethod
    def make(cls) -> nn.Module:
        cls.left -= 1
        if cls.left < 0:
            raise RuntimeError("no such luck")
        return Double()


make = Luck.make


class Gate:
    """Holds the making of a module until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
        self.opened, self.reached = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def held(config: ModelConfig, on_bytes: Any) -> nn.Module:
            if config.version in names:
                loop.call_soon_threadsafe(self.reached.set)
                asyncio.run_coroutine_threadsafe(self.opened.wait(), loop).result()
            return load_module(config, on_bytes)

        monkeypatch.setattr(version, "load_module", held)


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "DOUBTFUL_S", 0)
    monkeypatch.setattr(Luck, "left", 10**6)


@pytest.fixture
def now_s() -> list[float]:
    return [0.0]


@pytest.fixture
def store(now_s) -> MemoryStore:
    return MemoryStore(clock=lambda: now_s[0])


@pytest.fixture
async def start(store):
    """Return a function that starts a worker; those that the test leaves are closed."""
    followers: list[Follower] = []

    def configure(key: str, section: dict[str, Any]) -> ModelConfig:
        if section.get("trust"):
            raise Forbidden("trust is for the config file")
        return ModelConfig.model_validate({**section, "version": key.partition(":")[2]})

    async def begin(
        *sections: dict[str, Any],
        strict: bool = True,
        generation: int = 0,
        store=store,
        server: str = "server",
    ) -> Follower:
        configs = [ModelConfig.model_validate({**BATCHING, **s}) for s in sections or (MODEL,)]
        identity = Identity(server, generation, pid=len(followers) + 1, host="here")
        opened = (lambda: store) if isinstance(store, MemoryStore) else partial(open_store, store)
        follower = Follower(ModelRepository(), opened, configs, configure, identity)
        followers.append(follower)
        await follower.start(strict=strict)
        return follower

    yield begin
    for follower in followers:
        await follower.close()
        await follower.repository.close()


def load(key: str, section: dict[str, Any] | None = NEW, **kwargs: Any) -> Any:
    return partial(operations.load, key=key, section=section, **{"make_current": False, **kwargs})


def states(follower: Follower) -> dict[str, State]:
    return {version.key: version.state for version in follower.repository.versions}


def is_current(follower: Follower, version: str) -> bool | None:
    return follower.repository.find("m").version == version or None


async def settled(follower: Follower) -> None:
    """Return when nothing is left to be decided, and everybody is in line with it."""

    def is_settled() -> bool | None:
        wanted, planned = follower.wanted, follower.plan
        return (
            not wanted.upcoming
            and all(target.settled for target in planned.targets)
            and all(
                report.revision == wanted.revision
                and report.current == planned.current
                and len(report.versions) == len(planned.targets)
                for report in follower.deciding
            )
        ) or None

    await follower.until(is_settled, 60)


async def test_who_starts_answers_with_what_is_current_from_the_first_moment(start):
    first = await start()
    await first.change(load("m:2", make_current=True))
    await settled(first)
    second = await start()
    # As if version 2 had become ready after its worker last obeyed, and before it joins.
    second._loop.cancel()
    second.repository.make_current("m", "1")
    await second._join()
    assert second.repository.current("m") == "2"


# Together.


async def test_a_version_is_loaded_everywhere_and_becomes_current_everywhere(start):
    workers = [await start(), await start()]
    await workers[0].change(load("m:2", make_current=True))
    await settled(workers[1])
    for worker in workers:
        assert states(worker) == {"m:1": State.READY, "m:2": State.READY}
        assert worker.repository.find("m").version == "2"
        assert worker.repository.find("m", "1").ready


async def test_it_becomes_current_nowhere_before_it_is_ready_everywhere(start, monkeypatch):
    workers = [await start(), await start()]
    gate = Gate(monkeypatch, {"2"})
    await workers[0].change(load("m:2", make_current=True))
    await gate.reached.wait()
    await workers[0].until(lambda: workers[0].reports["server.2"].revision == 3 or None, 60)
    assert [worker.repository.find("m").version for worker in workers] == ["1", "1"]
    gate.opened.set()
    await settled(workers[0])
    assert [worker.repository.find("m").version for worker in workers] == ["2", "2"]


async def test_what_fails_in_one_is_taken_back_in_all(start, caplog):
    workers = [await start(), await start()]
    Luck.left = 1
    section = {**NEW, "source": "tests.repository.test_follower:make"}
    await workers[0].change(load("m:2", section, make_current=True))
    await workers[0].until(lambda: workers[0].wanted.failures or None, 60)
    await settled(workers[0])
    (failure,) = workers[0].wanted.failures
    assert failure.key == "m:2"
    assert "no such luck" in failure.reason
    assert "(worker " in failure.reason
    for worker in workers:
        assert states(worker) == {"m:1": State.READY}
        assert worker.repository.find("m").version == "1"
    assert "m:2 cannot be loaded: model m: " in caplog.text


async def test_a_replacement_takes_the_place_of_what_it_replaces(start):
    workers = [await start(), await start()]
    before = [worker.repository.find("m") for worker in workers]
    await workers[0].change(load("m:1", None))
    await settled(workers[0])
    for worker, old in zip(workers, before, strict=True):
        assert worker.repository.find("m") is not old
        assert worker.repository.find("m").ready
        assert old.state is State.DRAINING
        assert len(worker.repository.versions) == 1


async def test_two_operators_at_the_same_time_both_get_what_they_ask_for(start):
    workers = [await start(), await start()]
    await asyncio.gather(
        workers[0].change(load("m:2")), workers[1].change(load("m:3", make_current=True))
    )
    await settled(workers[0])
    await settled(workers[1])
    for worker in workers:
        assert worker.repository.currents == {"m": "3"}
        assert states(worker).keys() == {"m:1", "m:2", "m:3"}


async def test_many_operators_who_never_get_their_turn_are_told(start, store, monkeypatch):
    worker = await start()
    monkeypatch.setattr(store, "replace", lambda _revision, _document: False)
    with pytest.raises(Conflict, match="try again"):
        await worker.change(load("m:2"))


async def test_a_model_is_unloaded_and_its_order_kept(start):
    other = {**MODEL, "name": "n"}
    worker = await start(MODEL, other)
    await worker.change(load("m:1", None))
    await settled(worker)
    # Still the first one, although it was loaded last.
    assert worker.repository.find().name == "m"
    await worker.change(partial(operations.unload_model, name="m"))
    await settled(worker)
    assert worker.repository.find().name == "n"


async def test_what_is_unloaded_while_it_loads_is_loaded_for_nobody(start, monkeypatch):
    worker = await start()
    gate = Gate(monkeypatch, {"2"})
    await worker.change(load("m:2"))
    await gate.reached.wait()
    (loading,) = [v for v in worker.repository.versions if v.version == "2"]
    await worker.change(partial(operations.unload, key="m:2"))
    await settled(worker)
    gate.opened.set()
    await worker.change(load("m:3"))
    await settled(worker)
    assert states(worker) == {"m:1": State.READY, "m:3": State.READY}
    assert not loading.loaded


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_workers_of_several_servers_agree_by_a_real_store(start, request, tmp_path, kind):
    url = str(tmp_path / "state.db")
    if kind == "redis":
        url = request.getfixturevalue("redis_url")
        redis.Redis.from_url(url).flushall()
    workers = [await start(store=url, server=server) for server in ("one", "one", "other")]
    await workers[0].change(load("m:2", make_current=True))
    for worker in workers:
        await worker.until(partial(is_current, worker, "2"), 60)
    # On a busy machine, a report may have expired before the next one came.
    await workers[0].until(lambda: len(workers[0].deciding) == 3 or None, 60)
    await workers[2].change(partial(operations.roll_back, name="m"))
    for worker in workers:
        await worker.until(partial(is_current, worker, "1"), 60)


# A candidate.

TRIED = Candidate(version="2", share=0.25, shadow=True)


def try_out(candidate: Candidate = TRIED) -> Any:
    return partial(operations.set_candidate, name="m", candidate=candidate)


def tries(follower: Follower) -> Any:
    """Return what a worker does with requests that name no version."""
    trial = follower.repository.trial(follower.repository.find("m"))
    return trial and (trial.version.version, trial.share, trial.shadow)


async def test_all_workers_try_the_same_and_all_stop(start):
    workers = [await start(), await start()]
    await workers[0].change(load("m:2"))
    await settled(workers[0])
    await workers[0].change(try_out())
    for worker in workers:
        await worker.until(lambda w=worker: tries(w) == ("2", 0.25, True) or None, 60)
        assert worker.repository.find("m").version == "1"
    await workers[1].change(partial(operations.clear_candidate, name="m"))
    for worker in workers:
        await worker.until(lambda w=worker: tries(w) is None or None, 60)


async def test_all_workers_promote_it_and_roll_back(start):
    workers = [await start(), await start()]
    await workers[0].change(load("m:2"))
    await settled(workers[0])
    await workers[0].change(try_out())
    await workers[1].change(partial(operations.promote, name="m"))
    for worker in workers:
        await worker.until(partial(is_current, worker, "2"), 60)
        assert tries(worker) is None
    await workers[1].change(partial(operations.roll_back, name="m"))
    for worker in workers:
        await worker.until(partial(is_current, worker, "1"), 60)
        assert tries(worker) is None


async def test_a_restart_brings_the_candidate_back(start, caplog):
    first = await start()
    await first.change(load("m:2"))
    await settled(first)
    await first.change(try_out())
    second = await start()
    assert tries(second) == ("2", 0.25, True)
    for worker in (first, second):
        await worker.close()
    with caplog.at_level("INFO"):
        third = await start()
    assert tries(third) == ("2", 0.25, True)
    assert "m has the candidate 2, with 0.25 of the requests and copies of them" in caplog.text


async def test_the_config_files_candidate_is_tried(start):
    listed = {**MODEL, "version": "2", "candidate": {"share": 0.5}}
    worker = await start(MODEL, listed)
    assert tries(worker) == ("2", 0.5, False)
    await worker.change(partial(operations.clear_candidate, name="m"))
    await settled(worker)
    assert tries(worker) is None


async def test_a_candidate_that_is_not_ready_here_is_not_tried(start):
    listed = {**MODEL, "version": "2", "source": "tests.models:broken", "candidate": {"share": 1}}
    worker = await start(MODEL, listed, strict=False)
    assert states(worker)["m:2"] is State.FAILED
    assert tries(worker) is None


# Death and birth.


async def crash(worker: Follower) -> None:
    """End a worker as `kill -9` does: its report stays until it expires."""
    assert worker._loop is not None
    worker._loop.cancel()
    await asyncio.gather(worker._loop, return_exceptions=True)
    worker._loop = None


async def test_the_death_of_who_asked_changes_nothing(start, now_s, monkeypatch):
    workers = [await start(), await start(), await start()]
    gate = Gate(monkeypatch, {"2"})
    await workers[0].change(load("m:2", make_current=True))
    await crash(workers[0])
    gate.opened.set()
    # Who is dead is not waited for, once that is known.
    monkeypatch.setattr("batchserve.repository.shared.HEARTBEAT_S", -1)
    now_s[0] += 1000
    for worker in workers[1:]:
        await worker.until(partial(is_current, worker, "2"), 60)


async def test_a_worker_that_is_forked_comes_up_with_what_is_current(start):
    first = await start()
    await first.change(load("m:2", make_current=True))
    await first.change(load("m:3"))
    await settled(first)
    second = await start()
    assert second.repository.currents == {"m": "2"}
    assert set(states(second).values()) == {State.READY}
    assert states(second).keys() == {"m:1", "m:2", "m:3"}


async def test_a_worker_that_is_forked_meanwhile_loads_what_is_being_loaded(start, monkeypatch):
    first = await start()
    gate = Gate(monkeypatch, {"2"})
    await first.change(load("m:2", make_current=True))
    # It serves before that is ready, and what is current until then.
    second = await start()
    assert second.repository.find("m").version == "1"
    gate.opened.set()
    await settled(second)
    for worker in (first, second):
        assert worker.repository.currents == {"m": "2"}


async def test_the_whole_server_starts_anew_with_what_was_changed(start, caplog):
    first = await start()
    await first.change(load("m:2", make_current=True))
    await settled(first)
    await first.change(partial(operations.unload, key="m:1"))
    await settled(first)
    await first.close()
    with caplog.at_level("INFO"):
        second = await start()
    assert states(second) == {"m:2": State.READY}
    changed = "changed over HTTP since the config file was written: "
    for words in ("m:1 was unloaded", "m:2 was loaded", "m:2 is current"):
        assert f"{changed}{words}" in caplog.text


async def test_changes_that_make_no_sense_any_more_are_ignored_with_a_warning(start, caplog):
    first = await start(MODEL, {**MODEL, "version": "2"})
    await first.change(partial(operations.make_current, key="m:2"))
    await settled(first)
    await first.close()
    second = await start(MODEL)
    assert second.repository.find("m").version == "1"
    assert "is ignored: m:2 is gone, and so cannot be current" in caplog.text


async def test_a_worker_that_ends_is_not_waited_for(start, store):
    first, second = await start(), await start()
    assert store.read().reports.keys() == {"server.1", "server.2"}
    await second.close()
    assert store.read().reports.keys() == {"server.1"}
    await first.change(load("m:2", make_current=True))
    await settled(first)


async def test_old_workers_follow_during_a_reload_but_do_not_decide(start):
    old = await start(MODEL)
    new = await start(MODEL, {**MODEL, "version": "2"}, generation=1)
    await new.change(partial(operations.make_current, key="m:2"))
    await settled(new)
    assert new.repository.currents == {"m": "2"}
    # It knows no version 2, and answers with what it has.
    await old.until(lambda: old.wanted.revision == new.wanted.revision or None, 60)
    assert old.repository.find("m").ready


# Failing at the start.

BROKEN = {**MODEL, "name": "b", "source": "tests.models:broken"}


async def test_a_model_that_fails_leaves_the_others_alone(start):
    worker = await start(BROKEN, MODEL, strict=False)
    assert states(worker) == {"b:1": State.FAILED, "m:1": State.READY}
    assert "no such luck" in worker.repository.failed["b:1"]


@pytest.mark.parametrize("strict", [True, False])
async def test_a_worker_without_any_model_does_not_start(start, strict):
    with pytest.raises(LoadError, match="no such luck"):
        await start(BROKEN, {**BROKEN, "version": "2"}, strict=strict)


async def test_where_others_answer_a_worker_with_a_failed_model_does_not_start(start):
    with pytest.raises(LoadError, match="no such luck"):
        await start(MODEL, BROKEN, strict=True)


async def test_a_version_that_is_not_allowed_any_more_stands_as_failed(start, store):
    document = {
        "revision": 1,
        "changes": {"m:2": {"phase": "loaded", "serial": 1, "section": {"trust": True}}},
        "current": {"m": "2"},
    }
    store.replace(1, json.dumps(document))
    worker = await start(strict=False)
    assert states(worker) == {"m:1": State.READY, "m:2": State.FAILED}
    assert worker.repository.failed == {"m:2": "trust is for the config file"}
    assert worker.repository.find("m").version == "2"


# Trouble with the store.


class Moody(MemoryStore):
    """A store that fails when the test wants."""

    down = False

    def read(self, known: int = -1) -> Reading:
        if self.down:
            raise StoreError("server.state: nobody is there")
        return super().read(known)


async def test_a_store_that_fails_stops_changes_and_nothing_else(start, caplog):
    store = Moody()
    with caplog.at_level("INFO"):
        worker = await start(store=store)
        store.down = True
        with pytest.raises(StoreUnavailable, match=r"nothing was changed: server\.state: nobody"):
            await worker.change(load("m:2"))
        for _ in range(3):
            await worker.until(iter([None, True]).__next__)
        assert worker.repository.find("m").ready
        assert caplog.text.count("nobody is there; meanwhile everything is served as it is") == 1
        store.down = False
        await worker.change(load("m:2", make_current=True))
        await settled(worker)
    assert worker.repository.currents == {"m": "2"}
    assert "server.state can be used again" in caplog.text


async def test_without_its_store_a_worker_does_not_start(start):
    store = Moody()
    store.down = True
    with pytest.raises(StartupError, match="nobody is there"):
        await start(store=store)


@pytest.mark.parametrize(
    ("document", "reason"),
    [("{", "Invalid JSON: EOF"), ('{"current": 7}', "current: Input should be an object")],
)
async def test_a_document_that_nobody_understands_is_not_guessed_at(start, store, document, reason):
    store.replace(1, document)
    with pytest.raises(StartupError, match=f"move it away.*: {reason}"):
        await start()


async def test_a_worker_reports_often_enough_not_to_be_thought_dead(start, store, monkeypatch):
    worker = await start()
    monkeypatch.setattr("batchserve.repository.shared.HEARTBEAT_S", -1)
    reported: list[str] = []
    monkeypatch.setattr(store, "report", lambda name, _report, _ttl_s: reported.append(name))
    await worker.until(lambda: len(reported) > 1 or None, 60)
    assert set(reported) == {"server.1"}

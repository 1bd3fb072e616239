"""The steps in which a worker leaves, on virtual time."""

import asyncio
import copy
from collections.abc import Awaitable, Callable

import pytest

from batchserve.leaving import BROKEN_S, LOOK_S, QUIET_S, Leaving, Traffic
from batchserve.lineage import Lineage
from batchserve.testing import run_virtual

GRACE_S, DRAIN_S = 3.0, 10.0


class FakeDoor:
    """Notes when it was closed and left, and what readiness said then."""

    def __init__(self, traffic: Traffic, opens_at_s: float = 0.0) -> None:
        self.traffic = traffic
        self.opens_at_s = opens_at_s
        self.closed_s: list[float] = []
        self.for_good: list[bool] = []
        self.left: list[tuple[float, float]] = []

    async def opened(self) -> None:
        await asyncio.sleep(max(0.0, self.opens_at_s - now()))

    async def close(self, *, for_good: bool) -> None:
        assert self.traffic.dismissing
        self.for_good.append(for_good)
        self.closed_s.append(now())

    def leave(self, within_s: float) -> None:
        self.left.append((now(), within_s))


class Worker:
    """A worker, its master's view of the lineage, and its way out."""

    def __init__(self, max_requests: int = 1000, opens_at_s: float = 0.0) -> None:
        self.master = Lineage()
        self.traffic = Traffic(max_requests)
        self.door = FakeDoor(self.traffic, opens_at_s)
        own = copy.copy(self.master)
        self.leaving = Leaving(self.traffic, own, self.door, GRACE_S, DRAIN_S)
        self.traffic.on_enough = self.leaving.retire

    def successor_is_ready(self) -> None:
        copy.copy(self.master).announce_ready()

    async def answer(self, seconds: float) -> None:
        with self.traffic:
            await asyncio.sleep(seconds)


def now() -> float:
    return asyncio.get_running_loop().time()


def scenario(steps: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Let pytest run a coroutine function on virtual time."""

    def run() -> None:
        async def main() -> None:
            await steps()

        run_virtual(main)

    return run


def test_connections_end_of_which_there_are_too_many():
    traffic = Traffic()
    traffic.surplus = {"one"}
    assert traffic.sees_off("one")
    assert not traffic.sees_off("another")


def test_a_worker_that_leaves_ends_all_connections():
    traffic = Traffic()
    traffic.dismissing = True
    assert traffic.sees_off("any")


@scenario
async def test_a_stop_is_not_ready_at_once_and_serves_on_for_the_grace():
    worker = Worker()
    worker.leaving.step_down()
    await asyncio.sleep(0)
    assert worker.traffic.draining == "the server is shutting down"
    assert worker.traffic.dismissing
    await asyncio.sleep(100)
    assert worker.door.closed_s == [GRACE_S]
    assert worker.door.left == [(GRACE_S + QUIET_S, DRAIN_S - QUIET_S)]
    assert worker.door.for_good == [False]  # the master forks another one


@scenario
async def test_repeated_signals_change_nothing():
    worker = Worker()
    for _ in range(5):
        worker.leaving.step_down()
        worker.leaving.retire()
        await asyncio.sleep(1)
    await asyncio.sleep(100)
    assert worker.door.closed_s == [GRACE_S]
    assert len(worker.door.left) == 1


@scenario
async def test_a_request_in_progress_is_waited_for():
    worker = Worker()
    request = asyncio.create_task(worker.answer(GRACE_S + 5))
    worker.leaving.step_down()
    await request
    assert not worker.door.left
    await asyncio.sleep(100)
    assert worker.door.left[0][0] == pytest.approx(GRACE_S + 5, abs=2 * QUIET_S)


@scenario
async def test_a_request_on_an_established_connection_is_still_answered():
    worker = Worker()
    worker.leaving.step_down()
    await asyncio.sleep(GRACE_S)
    for _ in range(4):
        await asyncio.sleep(0.8 * QUIET_S)
        assert worker.door.closed_s
        assert not worker.door.left
        await worker.answer(0)
    await asyncio.sleep(100)
    assert worker.door.left


@scenario
async def test_requests_that_never_end_are_not_waited_for_for_ever():
    worker = Worker()
    request = asyncio.create_task(worker.answer(1000))
    worker.leaving.step_down()
    await asyncio.sleep(100)
    assert worker.door.left == [(GRACE_S + DRAIN_S, 0.0)]
    request.cancel()


@scenario
async def test_a_reload_keeps_serving_until_a_successor_is_ready_and_stays_ready():
    worker = Worker()
    worker.master.announce_generation()
    worker.leaving.step_down()
    await asyncio.sleep(50)
    assert not worker.traffic.dismissing
    worker.successor_is_ready()
    await asyncio.sleep(100)
    assert worker.door.closed_s == [pytest.approx(50, abs=LOOK_S)]
    assert worker.door.left
    assert worker.door.for_good == [False]  # its successor listens on the same socket
    assert not worker.traffic.draining


@scenario
async def test_a_stop_during_a_reload_is_a_stop():
    worker = Worker()
    worker.master.announce_generation()
    worker.leaving.step_down()
    await asyncio.sleep(50)
    worker.master.announce_stop()
    await asyncio.sleep(2 * LOOK_S)
    assert worker.traffic.draining
    await asyncio.sleep(100)
    assert worker.door.closed_s == [pytest.approx(50 + GRACE_S, abs=LOOK_S)]
    assert worker.door.for_good == [True]


@scenario
async def test_after_enough_requests_a_worker_leaves_without_grace():
    worker = Worker(max_requests=3)
    for _ in range(3):
        assert not worker.door.closed_s
        await worker.answer(0.1)
    await asyncio.sleep(100)
    assert worker.door.closed_s == [pytest.approx(0.2)]
    assert not worker.traffic.draining


@scenario
async def test_after_a_failed_reload_a_worker_stays_whatever_it_has_answered():
    worker = Worker(max_requests=1)
    worker.master.announce_generation()
    await worker.answer(0)
    await asyncio.sleep(100)
    assert not worker.door.closed_s


@scenario
async def test_a_signal_before_the_door_is_open_waits_for_that():
    worker = Worker(opens_at_s=20)
    worker.leaving.step_down()
    await asyncio.sleep(100)
    assert worker.door.closed_s == [20]


@scenario
async def test_a_broken_worker_is_replaced_at_once_with_a_short_time_for_its_requests():
    worker = Worker()
    request = asyncio.create_task(worker.answer(1000))
    await asyncio.sleep(1)
    worker.leaving.replace_worker("the device is gone")
    worker.leaving.replace_worker("and again")
    assert worker.traffic.draining == "the device is gone"
    await asyncio.sleep(100)
    assert worker.door.closed_s == [1]
    assert worker.door.left == [(1 + BROKEN_S, 0.0)]
    request.cancel()


@scenario
async def test_a_worker_that_breaks_while_it_leaves_is_not_waited_for():
    worker = Worker()
    request = asyncio.create_task(worker.answer(1000))
    worker.master.announce_generation()
    worker.leaving.step_down()
    await asyncio.sleep(5)
    worker.leaving.replace_worker("the device is gone")
    await asyncio.sleep(100)
    assert worker.door.left[0][0] == pytest.approx(5 + BROKEN_S)
    request.cancel()

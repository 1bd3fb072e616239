"""The loops, on virtual time: a server in memory, and nobody waits."""

import asyncio
from array import array
from typing import Any

import pytest

from batchserve.bench.figures import Figures, figures_of
from batchserve.bench.generator import Generator, Job
from batchserve.bench.schedule import Arrivals
from batchserve.bench.stage import Stage, closed, open_
from batchserve.bench.tally import Tally
from batchserve.testing.virtual_time import run_virtual
from tests.bench.servers import FakeTarget, Line, OneByOne


def generator(target: FakeTarget, stage: Stage, **changes: Any) -> Generator:
    clients, moments = stage.share(0, 1)
    fake: Any = target
    described: dict[str, Any] = {
        "target": fake,
        "wires": [b"GET / HTTP/1.1\r\n\r\n"],
        "begin_s": 0.0,
        "seconds": stage.all_s,
        "clients": clients,
        "moments": moments,
        **changes,
    }
    return Generator(Job(**described), asyncio.sleep, asyncio.get_running_loop().time)


def send(target: FakeTarget, stage: Stage, **changes: Any) -> Tally:
    async def main() -> Tally:
        return await generator(target, stage, **changes).run()

    return run_virtual(main)


def figures(target: FakeTarget, stage: Stage, slo_s: float | None = None) -> Figures:
    return figures_of(stage, [send(target, stage)], slo_s)


STALLED = {"takes_s": 0.001, "stalls_at_s": 5.0, "stalls_s": 1.0}


def test_a_stall_shows_in_an_open_loop():
    """Who would have come meanwhile has waited, too."""
    found = figures(FakeTarget(OneByOne(**STALLED)), open_(100, Arrivals.CONSTANT, 10, 0, 0), 0.1)
    # 100 of 1000 come during the second of the stall, and are late by up to all of it.
    assert found.p50_s == pytest.approx(0.001, abs=1e-6)
    assert found.p99_s == pytest.approx(0.91, abs=0.02)
    assert found.max_s == pytest.approx(1.001, abs=0.01)
    assert found.offered == found.answered == pytest.approx(100)
    # Those who come 0.1 s before its end are in time again, as soon as the backlog is computed.
    assert found.goodput == pytest.approx(90, abs=1.5)
    assert found.lag_p99_s == pytest.approx(0, abs=1e-9)


def test_a_closed_loop_hides_a_stall():
    """Which is why there is the other one."""
    found = figures(FakeTarget(OneByOne(**STALLED)), closed(1, 10, 0))
    assert found.p99_s == pytest.approx(0.001, abs=1e-6)
    assert found.max_s == pytest.approx(1.001, abs=0.002)


def test_latency_counts_from_the_intended_moment_if_the_generator_is_late():
    async def main() -> Tally:
        stage = open_(10, Arrivals.CONSTANT, 1, 0, 0)
        made = generator(FakeTarget(OneByOne(0.001)), stage)
        late = made._sleep

        async def oversleep(seconds: float) -> None:
            await late(seconds + 0.04)

        made._sleep = oversleep
        return await made.run()

    tally = run_virtual(main)
    found = figures_of(open_(10, Arrivals.CONSTANT, 1, 0, 0), [tally])
    assert found.p50_s == pytest.approx(0.041)
    assert found.lag_p99_s == pytest.approx(0.04)


def test_a_closed_loop_has_so_many_requests_in_flight():
    target = FakeTarget(OneByOne(0.01))
    found = figures(target, closed(4, 2, 1))
    assert len(target.lines) == 4
    assert found.answered == pytest.approx(100, rel=0.01)
    assert found.p50_s == pytest.approx(0.04)


def test_an_open_loop_sends_whatever_is_not_answered():
    target = FakeTarget(OneByOne(0.1))
    found = figures(target, open_(20, Arrivals.CONSTANT, 5, 0, 0))
    assert found.offered == pytest.approx(20)
    assert found.answered == pytest.approx(10, abs=0.3)
    # Of 100 requests, the last one finds 50 before it.
    assert found.max_s == pytest.approx(5.05, abs=0.01)


def test_connections_are_limited_and_that_is_in_the_latency():
    def respond(line: Line) -> None:
        asyncio.get_running_loop().call_later(0.1, line.answer)

    target = FakeTarget(respond)
    stage = open_(100, Arrivals.CONSTANT, 1, 0, 0)
    tally = send(target, stage, connections=5)
    found = figures_of(stage, [tally])
    assert len(target.lines) == found.connected == 5
    assert found.waited > 80
    assert found.max_s == pytest.approx(1.1, abs=0.1)
    assert found.outcomes == {"200": 100}


def test_requests_are_sent_in_turn():
    target = FakeTarget(lambda line: line.answer())
    wires = [b"GET /1 HTTP/1.1\r\n\r\n", b"GET /2 HTTP/1.1\r\n\r\n"]
    send(target, open_(4, Arrivals.CONSTANT, 1, 0, 0), wires=wires)
    assert [wire for line in target.lines for wire in line.received] == [*wires, *wires]


def test_what_nobody_answers_is_given_up():
    target = FakeTarget(lambda line: None)
    stage = open_(2, Arrivals.CONSTANT, 1, 0, 0)
    tally = send(target, stage, timeout_s=3.0, connections=1)
    found = figures_of(stage, [tally])
    assert found.outcomes == {"timeout": 2}
    assert found.answered == 0
    assert max(tally.done_s) == pytest.approx(3.6, abs=0.2)


def test_who_is_refused_waits_a_little():
    body = b'{"error": "full", "code": "queue_full"}'
    head = b"HTTP/1.1 503 Unavailable\r\nContent-Length: %d\r\n\r\n" % len(body)
    found = figures(FakeTarget(lambda line: line.answer(head, body)), closed(1, 0.95, 0))
    assert found.outcomes == {"503 queue_full": 10}


def test_an_answer_that_says_no_ends_it():
    body = b'{"error": "not an image", "code": "invalid_input"}'
    head = b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n" % len(body)
    tally = send(FakeTarget(lambda line: line.answer(head, body)), closed(1, 100, 0))
    assert tally.names == ["422 invalid_input"]
    assert len(tally) == 1
    assert tally.messages == {"422 invalid_input": body}


@pytest.mark.parametrize(
    ("refuses", "name"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (OSError(24, "Too many open files"), "too many open files"),
        (OSError(113, "No route to host"), "no connection: No route to host"),
    ],
)
def test_where_nobody_listens(refuses: OSError, name: str):
    target = FakeTarget(lambda line: None)
    target.refuses = refuses
    assert figures(target, closed(1, 0.95, 0)).outcomes == {name: 10}


def test_it_tells_how_far_it_is_and_stops_when_told():
    async def main() -> tuple[Any, Any, Tally]:
        made = generator(FakeTarget(OneByOne(0.25)), closed(2, 100, 0))
        running = asyncio.create_task(made.run())
        await asyncio.sleep(1.1)
        first, second = made.progress(), made.progress()
        made.stop()
        return first, second, await running

    first, second, tally = run_virtual(main)
    assert (first.sent, first.answered, first.failed, first.in_flight) == (6, 4, 0, 2)
    assert first.latencies_s == pytest.approx([0.25, 0.5, 0.5, 0.5])
    assert second.latencies_s == []
    assert len(tally) == 4


def test_the_warm_up_counts_for_nothing_but_is_the_same_load():
    target = FakeTarget(OneByOne(0.001, stalls_at_s=0.5, stalls_s=0.3))
    found = figures(target, open_(100, Arrivals.CONSTANT, 2, 1, 0))
    assert found.max_s == pytest.approx(0.001, abs=1e-6)
    assert found.outcomes == {"200": 200}


def test_moments_are_those_that_are_given():
    stage = Stage("given", 1, 0, moments=array("d", [0.1, 0.1, 0.7]))
    tally = send(FakeTarget(OneByOne(0.001)), stage)
    assert tally.sent_s.tolist() == pytest.approx([0.1, 0.1, 0.7])


def test_a_generator_that_is_late_reads_answers_all_the_same():
    """More is due at once than it has time for; an answer that came must not wait for that."""
    target = FakeTarget(lambda line: asyncio.get_running_loop().call_soon(line.answer))
    crowd = Stage("crowd", 1, 0, moments=[0.0] * 500)
    tally = send(target, crowd)
    assert len(tally) == 500
    # Connections are used again, before all is sent.
    assert len(target.lines) < 50

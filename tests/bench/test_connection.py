"""Answers of every form, from servers of every manner."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from batchserve.bench.generator import Generator, Job
from batchserve.bench.schedule import Arrivals
from batchserve.bench.stage import Stage, open_
from batchserve.bench.tally import Tally
from batchserve.testing.virtual_time import run_virtual
from tests.bench.servers import ANSWER, FakeTarget, Line

THREE = open_(10, Arrivals.CONSTANT, 0.3, 0, 0)


def talk(respond: Callable[[Line], Any], stage: Stage = THREE) -> tuple[Tally, FakeTarget]:
    target = FakeTarget(respond)
    fake: Any = target
    job = Job(fake, [b"GET / HTTP/1.1\r\n\r\n"], 0.0, stage.all_s, moments=stage.share(0, 1)[1])

    async def main() -> Tally:
        return await Generator(job, asyncio.sleep, asyncio.get_running_loop().time).run()

    return run_virtual(main), target


def fate(tally: Tally) -> list[str]:
    return [tally.names[place] for place in tally.outcomes]


@pytest.mark.parametrize(
    "parts",
    [
        [ANSWER],
        [ANSWER[:9], ANSWER[9:40], ANSWER[40:]],
        [bytes([byte]) for byte in ANSWER],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\n{}\r\n0", b"\r\n\r\n"],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", ANSWER],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ANSWER],
    ],
)
def test_answers_in_any_pieces_keep_the_connection(parts: list[bytes]):
    tally, target = talk(lambda line: line.answer(*parts))
    assert len(tally) == 3
    assert set(fate(tally)) <= {"200", "204"}
    assert len(target.lines) == tally.connected == 1


def test_a_server_that_closes_after_each_answer_is_connected_to_anew():
    last = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    tally, target = talk(lambda line: line.answer(last + b"more"))
    assert fate(tally) == ["200"] * 3
    assert len(target.lines) == 3
    assert not any(line.is_open for line in target.lines)


def test_an_answer_may_end_with_its_connection():
    def respond(line: Line) -> None:
        line.answer(b"HTTP/1.0 200 OK\r\n\r\n", b"so much", b" and more")
        line.close()

    tally, target = talk(respond)
    assert fate(tally) == ["200"] * 3
    assert len(target.lines) == 3


@pytest.mark.parametrize(
    ("said", "error", "name"),
    [
        (b"", None, "connection closed"),
        (b"", ConnectionResetError(), "connection reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf", None, "connection closed"),
        (b"HTTP/1.1 200 OK\r\nX", None, "connection closed"),
    ],
)
def test_an_answer_that_breaks_off_is_none(said: bytes, error: Exception | None, name: str):
    def respond(line: Line) -> None:
        line.answer(said)
        line.close(error)

    tally, target = talk(respond)
    assert fate(tally) == [name] * 3
    assert len(target.lines) == 3


def test_what_is_no_http_is_said_to_be_none():
    tally, _ = talk(lambda line: line.answer(b"SSH-2.0-OpenSSH_9.2\r\n"))
    assert all(name.startswith("not HTTP: ") for name in fate(tally))


def test_an_idle_connection_that_the_server_closes_is_not_used():
    def respond(line: Line) -> None:
        line.answer()
        line.close()

    tally, target = talk(respond)
    assert fate(tally) == ["200"] * 3
    assert len(target.lines) == 3


def test_a_connection_that_is_closed_at_once_fails_its_request():
    target = FakeTarget(lambda line: line.answer())
    welcome = target.connect

    async def hang_up(make: Callable[[], asyncio.Protocol], context: None) -> None:
        await welcome(make, context)
        target.lines[-1].client.connection_lost(None)

    target.connect = hang_up  # type: ignore[method-assign, assignment]
    fake: Any = target
    job = Job(fake, [b"x"], 0.0, 0.3, moments=THREE.share(0, 1)[1])

    async def main() -> Tally:
        return await Generator(job, asyncio.sleep, asyncio.get_running_loop().time).run()

    assert fate(run_virtual(main)) == ["connection closed"] * 3


def test_it_reads_what_the_server_tells_of_its_batch():
    told = (
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-batch-size: 7\r\n"
        b"server-timing: decode;dur=1, queue;dur=2.5\r\n\r\n"
    )
    tally, _ = talk(lambda line: line.answer(told))
    assert tally.batch_sizes.tolist() == [7] * 3
    assert tally.timings == [b"decode;dur=1, queue;dur=2.5"] * 3


def test_one_answer_does_not_inherit_from_the_one_before():
    answers = iter([ANSWER, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ANSWER])
    tally, _ = talk(lambda line: line.answer(next(answers)))
    assert tally.batch_sizes.tolist() == [1, 0, 1]

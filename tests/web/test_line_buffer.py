"""Lines are written off the loop, in their order, and bounded."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from batchserve.web.line_buffer import LineBuffer
from tests.web.clients import until


class Sink(logging.Handler):
    """Keeps messages; holds back whoever writes until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def emit(self, record: logging.LogRecord) -> None:
        assert self.open.wait(60)
        self.messages.append(record.getMessage())


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def logger(sink) -> Any:
    logger = logging.Logger("of this test", logging.INFO)  # noqa: LOG001 - no other may see it
    logger.addHandler(sink)
    return logger


async def test_lines_of_one_moment_share_a_record(logger, sink):
    buffer = LineBuffer(logger, delay_s=0)
    for number in range(3):
        buffer.info(f"line {number} of 100 %s")
    await until(lambda: sink.messages)
    assert sink.messages == ["line 0 of 100 %s\nline 1 of 100 %s\nline 2 of 100 %s"]
    buffer.info("later")
    await until(lambda: len(sink.messages) == 2)
    assert sink.messages[1] == "later"
    await buffer.close()


async def test_a_reader_that_stands_still_does_not_stop_the_loop(logger, sink):
    sink.open.clear()
    buffer = LineBuffer(logger, delay_s=0, most=2)
    buffer.info("written by a thread that waits")
    await until(lambda: not buffer._lines)
    for number in range(5):
        buffer.info(f"line {number}")
    await asyncio.sleep(0)
    assert sink.messages == []
    sink.open.set()
    await until(lambda: len(sink.messages) == 2)
    assert sink.messages[1].splitlines() == [
        "line 0",
        "line 1",
        "3 lines were dropped: the log is not read fast enough",
    ]
    await buffer.close()


async def test_closing_writes_what_is_left(logger, sink):
    buffer = LineBuffer(logger, delay_s=1000)
    buffer.info("one")
    buffer.info("two")
    await buffer.close()
    assert sink.messages == ["one\ntwo"]
    await buffer.close()
    assert sink.messages == ["one\ntwo"]

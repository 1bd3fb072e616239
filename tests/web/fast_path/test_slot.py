import asyncio
from typing import Any

import pytest

from batchserve.web.fast_path.slot import Slot
from tests.batching.clients import turns


async def test_a_row_is_told_of_at_once():
    told: list[Any] = []
    slot = Slot(lambda slot: told.append(slot.result()))
    assert not slot.done()
    slot.set_result("row")
    assert slot.done()
    assert told == ["row"]


async def test_an_exception_is_told_of_in_the_next_turn():
    # Who fails items is in the middle of its work on the queue.
    told: list[Any] = []
    slot = Slot(lambda slot: told.append(slot.exception()))
    error = ValueError("no")
    slot.set_exception(error)
    assert slot.done()
    assert told == []
    await turns(1)
    assert told == [error]
    with pytest.raises(ValueError, match="no"):
        slot.result()


async def test_who_does_not_wait_is_told_nothing():
    told: list[Any] = []
    slot = Slot(told.append)
    assert slot.cancel()
    assert slot.done()
    assert slot.cancelled()
    assert isinstance(slot.exception(), asyncio.CancelledError)
    assert not slot.cancel()
    await turns(2)
    assert told == []


async def test_a_bug_in_an_answer_is_not_the_batchers(caplog):
    def broken(_: Slot) -> None:
        raise RuntimeError("a bug")

    Slot(broken).set_result("row")
    assert "an answer could not be given" in caplog.text
    assert "RuntimeError: a bug" in caplog.text

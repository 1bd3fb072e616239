"""The bar of loading, on a terminal and elsewhere."""

import asyncio
import io
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from batchserve.loading_bar import loading_bar
from batchserve.repository.version import Progress


def version(*, compiles: bool = False) -> Any:
    config = SimpleNamespace(compile=compiles)
    return SimpleNamespace(key="m:1", config=config, progress=Progress("warm-up", 2, 5))


async def shown(found: Any, *, is_terminal: bool) -> str:
    """Return what is written while a version is there, and a line of the log."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=80)
    handler = logging.StreamHandler(file)
    async with loading_bar(lambda: [found], console, [handler]):
        await asyncio.sleep(0)
        handler.emit(logging.makeLogRecord({"msg": "a line"}))
        await asyncio.sleep(0)
    assert handler.stream is file
    return file.getvalue()


@pytest.mark.parametrize(("compiles", "stage"), [(False, "warm-up"), (True, "compiling")])
async def test_a_terminal_shows_how_far_it_is_and_lines_above_it(compiles, stage):
    written = await shown(version(compiles=compiles), is_terminal=True)
    assert f"m:1 {stage}" in written
    assert "2/5" in written
    assert "━" in written
    assert "a line\n" in written


async def test_elsewhere_there_are_lines_only():
    assert await shown(version(), is_terminal=False) == "a line\n"


async def test_it_is_gone_when_loading_fails():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with pytest.raises(ValueError, match="no model"):
        async with loading_bar(lambda: [version()], console, []):
            raise ValueError("no model")
    assert console._live_stack == []

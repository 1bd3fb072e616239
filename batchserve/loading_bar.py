"""Shows on a terminal how far the loading of the models is."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TextIO, cast

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from batchserve.repository import ModelVersion

DRAW_S = 0.1


@asynccontextmanager
async def loading_bar(
    versions: Callable[[], Iterable[ModelVersion]],
    console: Console,
    handlers: Iterable[logging.Handler],
) -> AsyncIterator[None]:
    """Show a bar, on a terminal, for the version that is being loaded, warmed up or compiled.

    Args:
        versions: all there are at the moment.
        console: of the terminal; nothing is shown on what is none.
        handlers: of the log; what they write to the console's file appears above the bar.
    """
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(24))
    progress = Progress(
        *columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    )
    with progress, _above_it(console, handlers):
        drawing = asyncio.create_task(_draw(progress, versions), name="loading bar")
        try:
            yield
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing


async def _draw(progress: Progress, versions: Callable[[], Iterable[ModelVersion]]) -> None:
    task = progress.add_task("loading", total=None)
    shown = ""
    while True:
        for version in versions():
            if (now := version.progress) is None:
                continue
            compiles = now.stage == "warm-up" and version.config.compile
            what = f"{version.key} {'compiling' if compiles else now.stage}"
            if what != shown:
                progress.reset(task)
                shown = what
            progress.update(task, description=what, completed=now.done, total=now.of)
        await asyncio.sleep(DRAW_S)


@contextmanager
def _above_it(console: Console, handlers: Iterable[logging.Handler]) -> Iterator[None]:
    streams = [
        handler
        for handler in handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is console.file
    ]
    proxy = cast("TextIO", FileProxy(console, console.file))
    for handler in streams:
        handler.setStream(proxy)
    try:
        yield
    finally:
        for handler in streams:
            handler.setStream(console.file)

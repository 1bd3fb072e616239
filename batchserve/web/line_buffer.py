"""Lines of a log, written off the event loop: who reads them may be slow, or may have stopped."""

import asyncio
import logging
from contextlib import suppress

# How long a line waits for others, with which it shares a record of the log and a system call.
DELAY_S = 0.1
# Beyond so many unwritten lines, new ones are dropped.
MOST = 100_000


class LineBuffer:
    """Takes lines at once, and has a thread write them, all that there are in one record.

    Args:
        logger: where to.
        delay_s: how long a line may wait.
        most: unwritten lines to keep; how many more there were, a line says later.
    """

    def __init__(self, logger: logging.Logger, delay_s: float = DELAY_S, most: int = MOST) -> None:
        self._logger = logger
        self._delay_s = delay_s
        self._most = most
        self._lines: list[str] = []
        self._dropped = 0
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def info(self, line: str) -> None:
        """Log a line, soon."""
        if len(self._lines) >= self._most:
            self._dropped += 1
            return
        self._lines.append(line)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_soon(), name="log")

    async def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        if self._writing is not None:
            await self._writing

    async def _write_soon(self) -> None:
        try:
            while self._lines:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._delay_s):
                        await self._closing.wait()
                await self._write()
        finally:
            self._writing = None

    async def _write(self) -> None:
        lines, self._lines = self._lines, []
        if self._dropped:
            lines.append(f"{self._dropped} lines were dropped: the log is not read fast enough")
            self._dropped = 0
        if lines:
            await asyncio.to_thread(self._logger.info, "%s", "\n".join(lines))

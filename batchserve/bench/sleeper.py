"""Sleeps that end when they should: the timers of event loops are good to a millisecond."""

import asyncio
import ctypes
import os
import time
from types import TracebackType
from typing import Self

NANO = 1_000_000_000
SIZE = 8  # of what a timer has to read


class _Setting(ctypes.Structure):
    """C's `struct itimerspec`, of two `struct timespec`."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Sleeper:
    """A timer of the kernel's, `timerfd_create(2)`; where there is none, the event loop's."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._timer = -1
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        create = getattr(self._libc, "timerfd_create", None)
        if create is not None:
            self._timer = create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer >= 0:
            asyncio.get_running_loop().add_reader(self._timer, self._ring)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer >= 0:
            asyncio.get_running_loop().remove_reader(self._timer)
            os.close(self._timer)

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds; one at a time may sleep."""
        if self._timer < 0:
            await asyncio.sleep(seconds)
            return
        # 0 would switch the timer off.
        nanoseconds = max(1, int(seconds * NANO))
        setting = _Setting(0, 0, *divmod(nanoseconds, NANO))
        self._waiter = asyncio.get_running_loop().create_future()
        self._libc.timerfd_settime(self._timer, 0, ctypes.byref(setting), None)
        await self._waiter

    def _ring(self) -> None:
        os.read(self._timer, SIZE)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

"""So many seconds, and no more."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class TimeUp(KeyboardInterrupt):
    """The time is over, whatever was going on: nothing that catches errors holds it."""


class Budget:
    """Seconds to spend, from now on.

    Args:
        seconds: all of them.
        clock: of seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began_s = clock()

    @property
    def spent_s(self) -> float:
        return self._clock() - self._began_s

    @property
    def left_s(self) -> float:
        return max(0.0, self.seconds - self.spent_s)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Interrupt what is done inside after so many seconds, if this is the main thread.

    A kernel that runs is waited for, as Python hears of signals between its own steps only.

    Raises:
        TimeUp: it was interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    others_s, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, others_s)
        signal.signal(signal.SIGALRM, before)

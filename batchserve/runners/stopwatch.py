"""How long something takes on a thread that gets a core whenever it wants one.

A server that is reloaded warms up beside the one that serves, perhaps under full load. What it
measures then holds for as long as it lives, and the load will be its own.
"""

import time
from pathlib import Path

# Of the calling thread: nanoseconds on a core, and ready but without one
# (https://docs.kernel.org/scheduler/sched-stats.html).
SCHEDSTAT = Path("/proc/thread-self/schedstat")


class Stopwatch:
    """Counts from when it is made, on the thread that made it."""

    def __init__(self) -> None:
        self._waited_s = waited_s()
        self._started_cpu_s = time.thread_time()
        self._started_s = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds until now, without those in which the thread waited for a core."""
        taken_s = time.perf_counter() - self._started_s
        cpu_s = time.thread_time() - self._started_cpu_s
        # It may have waited while the clocks were read, too.
        return max(taken_s - (waited_s() - self._waited_s), min(cpu_s, taken_s))


def waited_s() -> float:
    """Return for how long this thread has waited for a core; 0 where the kernel does not tell."""
    try:
        return int(SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0

"""A store for the workers of one process, which ends with it: for tests."""

import threading
import time
from collections.abc import Callable

from batchserve.stores.base import Reading


class MemoryStore:
    """A `Store` in this process's memory.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._revision, self._document = 0, ""
        self._reports: dict[str, tuple[float, str]] = {}

    def read(self, known: int = -1) -> Reading:
        with self._lock:
            now_s = self._clock()
            reports = {
                worker: report
                for worker, (until_s, report) in self._reports.items()
                if now_s < until_s
            }
            document = None if self._revision == known else self._document
            return Reading(self._revision, document, reports)

    def replace(self, revision: int, document: str) -> bool:
        with self._lock:
            if revision != self._revision + 1:
                return False
            self._revision, self._document = revision, document
            return True

    def report(self, worker: str, report: str, ttl_s: float) -> None:
        with self._lock:
            self._reports[worker] = (self._clock() + ttl_s, report)

    def forget(self, worker: str) -> None:
        with self._lock:
            self._reports.pop(worker, None)

    def close(self) -> None:
        """Others may use it still."""

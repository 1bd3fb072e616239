"""Where every worker finds the history: a file in the folder that they share, written by one."""

import fcntl
from pathlib import Path
from typing import IO

# Ten minutes of points, two seconds apart.
MOST_POINTS = 300


class HistoryLog:
    """The last points, oldest first, as lines of a time and some JSON. It blocks: for threads.

    The worker that holds a lock on a file beside it writes. If that worker ends, however it does,
    the kernel gives the lock to the next that asks.

    Args:
        folder: that exists, and that all workers share.
        most: points to keep; up to twice as many are in the file.
    """

    def __init__(self, folder: Path, most: int = MOST_POINTS) -> None:
        self._path = folder / "history"
        self._most = most
        self._lock: IO[bytes] | None = None
        self._written = 0

    def lead(self) -> bool:
        """Return whether this worker is the one that writes; it is, if nobody else was.

        Raises:
            OSError: the folder is gone.
        """
        if self._lock is not None:
            return True
        lock = self._path.with_suffix(".lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        self._written = len(self._lines())
        return True

    def append(self, at_s: float, point: bytes) -> None:
        """Add a point, after those of earlier times. Only the worker that leads may.

        Raises:
            OSError: the folder is gone, or the disk is full.
        """
        line = b"%.3f %b\n" % (at_s, point)
        if self._written < 2 * self._most:
            with self._path.open("ab") as file:
                file.write(line)
            self._written += 1
            return
        kept = [*self._lines()[1 - self._most :], line]
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(b"".join(kept))
        fresh.replace(self._path)
        self._written = len(kept)

    def since(self, at_s: float) -> list[bytes]:
        """Return the points after a time."""
        parted = (line.rstrip().partition(b" ") for line in self._lines()[-self._most :])
        return [point for at, _, point in parted if float(at) > at_s]

    def close(self) -> None:
        """Let another worker write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _lines(self) -> list[bytes]:
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        # The last one may be in the midst of being written.
        return [line for line in lines if line.endswith(b"\n")]

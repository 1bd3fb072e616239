"""How many forward passes the processes of a server have made, and of how many items.

Each process counts in a file of its own, which is shared memory: a pass costs it no system call.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

FOLDER = "BENCH_PASSES"
COUNTS = struct.Struct("=QQ")


@dataclass(frozen=True)
class Count:
    """Forward passes, and the items in them."""

    passes: int = 0
    items: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.passes + other.passes, self.items + other.items)

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.passes - other.passes, self.items - other.items)

    @property
    def batch_size(self) -> float | None:
        return self.items / self.passes if self.passes else None


class Passes:
    """Counts those of this process, if its environment names a folder."""

    def __init__(self) -> None:
        self._passes = self._items = 0
        self._file: mmap.mmap | None = None
        if folder := os.environ.get(FOLDER):
            path = Path(folder) / str(os.getpid())
            path.write_bytes(bytes(COUNTS.size))
            with path.open("r+b") as file:
                self._file = mmap.mmap(file.fileno(), COUNTS.size)

    def count(self, items: int) -> None:
        self._passes += 1
        self._items += items
        if self._file is not None:
            COUNTS.pack_into(self._file, 0, self._passes, self._items)


def counted(folder: Path) -> Count:
    """Return what all processes have counted so far."""
    counts = [Count(*COUNTS.unpack(path.read_bytes())) for path in folder.iterdir()]
    return sum(counts, Count())

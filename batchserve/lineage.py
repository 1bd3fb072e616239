"""Which reload a worker stems from, and what has become of the server since."""

import mmap
import secrets
import struct
import sys

# Where what is in the shared memory: a number, three flags, and what each generation has come to.
NEWEST, STOPPING, EVER_READY, ENDING, READY = 0, 8, 9, 10, 16
GENERATIONS = 1024
# What that is: one of its workers has been ready, with all its models or without some.
SOME, ALL = 1, 2


class Lineage:
    """A page of memory that Gunicorn's master and its workers share, made before the first fork.

    A *generation* is the workers that a start or a reload has forked, and those that replace them.
    Each byte has one writer, or writers that agree, so that nothing needs a lock.

    Attributes:
        server: names this master among all there ever were.
        generation: of this process; a worker inherits its master's.
        max_requests: after which this worker shall be replaced.
        first: whether this worker is the first that the server has forked.
    """

    def __init__(self) -> None:
        self.server = secrets.token_hex(8)
        self.generation = 0
        self.max_requests = sys.maxsize
        self.first = False
        self._ends = False
        self._shared = mmap.mmap(-1, READY + GENERATIONS)

    # What the master calls.

    def announce_generation(self) -> None:
        """From now on, workers are forked for a reload."""
        self.generation += 1
        self._shared[_ready(self.generation)] = 0
        struct.pack_into("Q", self._shared, NEWEST, self.generation)

    def announce_stop(self) -> None:
        """The whole server stops; nobody follows."""
        self._shared[STOPPING] = 1

    # What a worker calls.

    def announce_ready(self, *, complete: bool = True) -> None:
        """A worker of this generation accepts connections.

        Args:
            complete: all its models could be loaded.
        """
        if complete or not self._shared[_ready(self.generation)]:
            self._shared[_ready(self.generation)] = ALL if complete else SOME
        self._shared[EVER_READY] = 1

    def claim_end(self) -> bool:
        """Return whether this worker, which cannot start, is the first, and so ends the server.

        Gunicorn's master stumbles over a second one that wants to.
        """
        if not self._shared[ENDING]:
            self._shared[ENDING] = 1
            self._ends = True
        return self._ends

    def is_covered(self, workers: int) -> bool:
        """Whether others answer meanwhile, with more models than this worker, if one fails here.

        Args:
            workers: of this server.
        """
        reached = self._shared[_ready(self.generation)]
        return self.generation > 0 if not reached else reached == ALL and workers > 1

    @property
    def superseded(self) -> bool:
        """Whether there was a reload since this worker was forked."""
        return self._newest > self.generation

    @property
    def followed(self) -> bool:
        """Whether, after a reload, a worker of the newest generation has been ready."""
        return self.superseded and bool(self._shared[_ready(self._newest)])

    @property
    def expects_successor(self) -> bool:
        """Whether somebody will follow who is not ready yet."""
        return self.superseded and not self.followed and not self.stopping

    @property
    def stopping(self) -> bool:
        """Whether the whole server stops."""
        return bool(self._shared[STOPPING])

    @property
    def ever_ready(self) -> bool:
        """Whether any worker of this server has ever been ready."""
        return bool(self._shared[EVER_READY])

    @property
    def _newest(self) -> int:
        newest: int = struct.unpack_from("Q", self._shared, NEWEST)[0]
        return newest


def _ready(generation: int) -> int:
    return READY + generation % GENERATIONS


# Imported by the master, so that its workers find the same memory here.
LINEAGE = Lineage()

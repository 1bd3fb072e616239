"""The workers of a server at its listening sockets, and how many connections each has.

All of them wait on the same sockets. A connection wakes all who are idle, and the first takes it:
of those that clients keep, one worker may get nearly all for good, and its cores the work of all
(benoitc/gunicorn issues 2670 and 3071; Kludex/uvicorn-worker issue 34). So each tells the others.
"""

import mmap
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

# Of each worker: whether it accepts, and with how many connections; and how often it has looked.
CELLS = 2
FREE, CLOSED, OPEN = 0, 1, 2
# More than any machine runs; those beyond share the last place.
PLACES = 1024
WRAP = 2**32


class Worker(NamedTuple):
    """What one that accepts connections tells the others: how many it has, and that it lives."""

    connections: int
    looks: int


class Crew:
    """A page of memory that Gunicorn's master and its workers share, made before the first fork.

    Each worker has a place in it, which nobody else writes to while the worker lives.

    Attributes:
        sockets, make_tls: what `listen_on` was given.
    """

    def __init__(self) -> None:
        self.listen_on((), None)
        # First, how many places have ever been in use.
        self._cells = memoryview(mmap.mmap(-1, 4 * (1 + CELLS * PLACES))).cast("I")
        self._place = 0

    # What the master calls.

    def reserve(self) -> int:
        """Return the place of the worker that is forked next; until it looks, it is closed."""
        states = self._cells[1::CELLS].tolist()
        self._place = states.index(FREE) if FREE in states else PLACES - 1
        self._cells[0] = max(self._cells[0], self._place + 1)
        self._cells[1 + CELLS * self._place] = CLOSED
        return self._place

    def release(self, place: int) -> None:
        """Forget a worker that is no more."""
        self._cells[1 + CELLS * place] = FREE

    # What a worker calls.

    def listen_on(
        self, sockets: Sequence[socket.socket], make_tls: Callable[[], ssl.SSLContext] | None
    ) -> None:
        """Have this worker listen.

        Args:
            sockets: on these.
            make_tls: makes the context for connections with TLS; None: they have none.
        """
        self.sockets, self.make_tls = sockets, make_tls

    def look(self, connections: int) -> None:
        """Tell the others that this worker accepts connections, and how many it has."""
        at = 1 + CELLS * self._place
        self._cells[at] = OPEN + connections
        self._cells[at + 1] = (self._cells[at + 1] + 1) % WRAP

    def close(self) -> None:
        """Tell the others that this worker accepts no more."""
        self._cells[1 + CELLS * self._place] = CLOSED

    def others(self) -> dict[int, Worker]:
        """Return those that accept connections, by their places."""
        cells = self._cells[1 : 1 + CELLS * self._cells[0]].tolist()
        return {
            place: Worker(state - OPEN, cells[CELLS * place + 1])
            for place, state in enumerate(cells[::CELLS])
            if state >= OPEN and place != self._place
        }


# Imported by the master, so that its workers find the same memory here.
CREW = Crew()

"""How workers share connections out: who accepts the next one, and who lets go of some.

No connection is lost by either. One that waits is left to those with fewer, for a moment; one that
is let go of ends with an answer that says so (RFC 9112, 9.6), and the client comes back.
"""

from math import ceil

from batchserve.crew import Crew

# How long a connection may wait in all for somebody with fewer.
PATIENCE_S = 0.02
# Connections are short if so many times as many have come within so long as there are, or a few.
CHURN, FEW = 4, 8
WINDOW_S = 0.5
# How many times the mean, and how many more, one worker may keep.
KEPT, MORE = 1.25, 1


class Turn:
    """Whether it is this worker's turn to accept the connection that waits.

    Connections that last go to whoever has the fewest. Where each lasts for a request or two,
    whoever has time takes it: there, waiting for others would take longer than the request.

    Args:
        crew: all the workers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._since_s: float | None = None
        self._passed_over: dict[int, int] = {}
        self._came = self._came_before = 0
        self._window_s = 0.0

    def has_come(self, connections: int, now_s: float) -> bool:
        """Return whether to accept it.

        Somebody who has not come for it within the patience is not waited for again until it has
        looked at the socket: it is busy, or stopped.

        Args:
            connections: that this worker has.
            now_s: by any clock.
        """
        self._crew.look(connections)
        if self._are_short(connections, now_s) or self._has_waited(connections, now_s):
            self._came += 1
            self._since_s = None
            return True
        return False

    def was_anothers(self) -> None:
        """Nothing waits any more."""
        self._since_s = None

    def _are_short(self, connections: int, now_s: float) -> bool:
        if now_s >= self._window_s + WINDOW_S:
            self._came_before = self._came if now_s < self._window_s + 2 * WINDOW_S else 0
            self._came, self._window_s = 0, now_s
        return max(self._came, self._came_before) > CHURN * (connections + FEW)

    def _has_waited(self, connections: int, now_s: float) -> bool:
        fewer = {
            place: worker.looks
            for place, worker in self._crew.others().items()
            if worker.connections < connections
        }
        if not fewer.items() - self._passed_over.items():
            return True
        if self._since_s is None:
            self._since_s = now_s
        if now_s < self._since_s + PATIENCE_S:
            return False
        self._passed_over = fewer
        return True


class Surplus:
    """How many connections this worker should let go of, so that others get them.

    Those are connections that lasted while others could not accept any: because they were not
    ready yet, or take the place of a worker that ended.

    Args:
        crew: all the workers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._looks: dict[int, int] = {}

    def now(self, connections: int) -> int:
        """Return how many; called from time to time, by all workers.

        Args:
            connections: that this worker has.
        """
        self._crew.look(connections)
        others = self._crew.others()
        # Whoever has not looked since the last time would not accept them.
        lively = [w.connections for p, w in others.items() if self._looks.get(p) != w.looks]
        self._looks = {place: worker.looks for place, worker in others.items()}
        mean = (connections + sum(lively)) / (1 + len(lively))
        return connections - ceil(mean) if connections > KEPT * mean + MORE else 0

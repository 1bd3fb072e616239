"""How workers share connections out: who accepts the next one, and who lets go of some.

No connection is lost by either. One that waits is left to those with fewer, for a moment; one that
is let go of ends with an answer that says so (RFC 9112, 9.6), and the client comes back.
"""

import random
from collections.abc import Collection, Sequence
from math import ceil
from typing import TypeVar

from batchserve.crew import Crew

T = TypeVar("T")

# How long a connection may wait in all for somebody with fewer.
PATIENCE_S = 0.02
# Connections are short if so many times as many have come within so long as there are, or a few.
CHURN, FEW = 4, 8
WINDOW_S = 0.5
# How many times the mean, and how many more, one worker may keep.
KEPT, MORE = 1.25, 1


class Turn:
    """How many of the connections that wait this worker is to accept.

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

    def share(self, connections: int, waiting: int, now_s: float) -> int:
        """Return how many to accept; 0: look again soon.

        Somebody who has not come for its own within the patience is not waited for again until it
        has looked again: it is busy, or stopped.

        Args:
            connections: that this worker has.
            waiting: how many wait, at least one.
            now_s: by any clock.
        """
        self._crew.look(connections)
        others = self._crew.others()
        lively = {p: w for p, w in others.items() if self._passed_over.get(p) != w.looks}
        share = fair_share(connections, [worker.connections for worker in lively.values()], waiting)
        if share:
            return share
        if self._are_short(connections, now_s):
            return 1
        if self._since_s is None:
            self._since_s = now_s
        if now_s < self._since_s + PATIENCE_S:
            return 0
        self._passed_over |= {
            place: worker.looks
            for place, worker in lively.items()
            if worker.connections < connections
        }
        return 1

    def has_accepted(self, count: int, connections: int, now_s: float) -> None:
        """So many were accepted.

        Args:
            count: how many.
            connections: that this worker has now.
            now_s: as above.
        """
        self._crew.look(connections)
        self._begin_window(now_s)
        self._came += count
        self._since_s = None

    def was_anothers(self) -> None:
        """Nothing waits any more."""
        self._since_s = None

    def _are_short(self, connections: int, now_s: float) -> bool:
        self._begin_window(now_s)
        return max(self._came, self._came_before) > CHURN * (connections + FEW)

    def _begin_window(self, now_s: float) -> None:
        if now_s >= self._window_s + WINDOW_S:
            self._came_before = self._came if now_s < self._window_s + 2 * WINDOW_S else 0
            self._came, self._window_s = 0, now_s


def fair_share(own: int, others: Sequence[int], waiting: int) -> int:
    """Return how many of those that wait one should have, so that all come to have as many.

    Args:
        own: how many it has.
        others: how many each of the others has.
        waiting: how many wait. What does not divide evenly may be anybody's.
    """
    counts = sorted([own, *others])
    # As water that is poured over steps: those that it covers come to the same level.
    level = total = 0
    for covered, count in enumerate(counts, 1):
        total += count
        level = ceil((total + waiting) / covered)
        if level <= min(counts[covered:], default=level):
            break
    return min(waiting, max(0, level - own))


class Surplus:
    """Which connections this worker should let go of, so that others get them.

    There are too many where others could not accept any for a while: because they were not ready
    yet, or take the place of a worker that ended.

    Args:
        crew: all the workers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._looks: dict[int, int] = {}

    def count(self, connections: int) -> int:
        """Return how many there are too many; called from time to time, by all workers.

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


def choose(marked: Collection[T], count: int, among: Sequence[T]) -> list[T]:
    """Return so many of the connections, those that were chosen before first.

    The others are taken at random, lest it be the busiest, which answer first, that all leave.
    """
    kept = [connection for connection in among if connection in marked][:count]
    others = [connection for connection in among if connection not in marked]
    return kept + random.sample(others, min(len(others), count - len(kept)))

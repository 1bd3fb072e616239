"""How priorities share the device: each has its weight of it, and none gets nothing.

Stride scheduling (Waldspurger and Weihl, 1995, MIT/LCS/TM-528): whoever has had the least in
proportion to its weight comes first.
"""

from collections.abc import Collection

from batchserve.batch import Priority

WEIGHTS = {Priority.INTERACTIVE: 16, Priority.NORMAL: 4, Priority.BULK: 1}
STRIDES = {priority: 1 / weight for priority, weight in WEIGHTS.items()}


class Shares:
    """What each priority has had: the number of its items by its weight."""

    def __init__(self) -> None:
        self._had = dict.fromkeys(Priority, 0.0)
        self._now = 0.0

    def first_of(self, waiting: Collection[Priority]) -> Priority:
        """Return who comes first of these, at least one."""
        return min(waiting, key=lambda priority: (self._had[priority], priority))

    def charge(self, priority: Priority) -> None:
        """Count an item that is served."""
        had = self._had[priority]
        self._now = max(self._now, had)
        self._had[priority] = had + STRIDES[priority]

    def join(self, priority: Priority, waiting: Collection[Priority]) -> None:
        """Begin to wait, after none of this priority did: what was not used then is lost.

        Args:
            priority: who comes.
            waiting: who waits already; whoever comes has had as much as the one of them that
                comes next.
        """
        others = [self._had[other] for other in waiting]
        self._had[priority] = max(self._had[priority], min(others, default=self._now))

    def had(self, priority: Priority) -> float:
        return self._had[priority]

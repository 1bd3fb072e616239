"""How many items have come lately: those who wait must expect as many to come meanwhile."""

from collections import deque
from collections.abc import Mapping

from batchserve.batch import Priority

# Items of one priority by which its rate is told.
WINDOW = 64


class Arrivals:
    """Rates, in items per second.

    Args:
        company: by how many of the last items the rate of all is told: those of a batch.
    """

    def __init__(self, company: int) -> None:
        self._last_s: deque[float] = deque(maxlen=company)
        self._by_priority: dict[Priority, deque[float]] = {}

    def came(self, priority: Priority, now_s: float) -> None:
        """Note an item that was put on the queue."""
        self._last_s.append(now_s)
        lately_s = self._by_priority.get(priority)
        if lately_s is None:
            lately_s = self._by_priority[priority] = deque(maxlen=WINDOW)
        lately_s.append(now_s)

    def rate(self, now_s: float) -> float:
        """Return the rate of all, as it is just now."""
        return _rate(self._last_s, now_s)

    @property
    def are_mixed(self) -> bool:
        """Whether items of more than one priority have come."""
        return len(self._by_priority) > 1

    def rates(self, now_s: float) -> Mapping[Priority, float]:
        """Return the rate of each priority, over a longer time."""
        return {priority: _rate(times_s, now_s) for priority, times_s in self._by_priority.items()}


def _rate(times_s: deque[float], now_s: float) -> float:
    since_s = now_s - times_s[0] if times_s else 0.0
    return len(times_s) / since_s if since_s > 0 else 0.0

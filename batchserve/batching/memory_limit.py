"""How many items the device's memory has room for, by bucket, as failures have shown."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

# What took the memory may be gone by then.
TRY_AGAIN_S = 60.0
MOST_BUCKETS = 256


@dataclass(slots=True)
class _Limit:
    size: int
    again_s: float


class MemoryLimit:
    """The largest batch that is safe: halved when memory ran out, tried again later.

    Args:
        largest: no batch is larger anyway.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._limits: OrderedDict[Hashable, _Limit] = OrderedDict()

    def of(self, key: Hashable, now_s: float) -> int:
        """Return the largest batch that may be formed now."""
        limit = self._limits.get(key)
        if limit is None:
            return self._largest
        return min(self._largest, 2 * limit.size) if now_s >= limit.again_s else limit.size

    def ran_out(self, key: Hashable, size: int, now_s: float) -> None:
        """A batch of this size was too large."""
        self._limits[key] = _Limit(max(1, size // 2), now_s + TRY_AGAIN_S)
        if len(self._limits) > MOST_BUCKETS:
            self._limits.popitem(last=False)

    def sufficed(self, key: Hashable, size: int, now_s: float) -> None:
        """A batch of this size went through."""
        limit = self._limits.get(key)
        if limit is None or size <= limit.size:
            return
        if size >= self._largest:
            del self._limits[key]
        else:
            self._limits[key] = _Limit(size, now_s + TRY_AGAIN_S)

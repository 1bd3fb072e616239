"""Items that can share a batch, in the order in which they are served.

Requests of one priority take turns, an item each: one with 1,000 items does not hold up the others.
Between priorities, `Shares` decides.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

from batchserve.batch import Item, Priority
from batchserve.batching.shares import Shares


@dataclass(slots=True)
class _Turn:
    """A request that waits for its next turn, since `since_s`, with the items it has left."""

    since_s: float
    items: deque[Item]


@dataclass(frozen=True, slots=True)
class Load:
    """How much waits.

    Attributes:
        items: all of them.
        requests: whose items they are, and who take turns.
    """

    items: int
    requests: int


class Lane:
    """Items of one priority. Every operation takes constant time, whatever waits.

    Attributes:
        size: how many there are.
    """

    __slots__ = ("_by_age", "_turns", "size")

    def __init__(self) -> None:
        self._turns: OrderedDict[Hashable, _Turn] = OrderedDict()  # whose turn is next, first
        self._by_age: OrderedDict[Hashable, None] = OrderedDict()
        self.size = 0

    def append(self, item: Item) -> None:
        """Take an item into its request's turn; a new request comes last."""
        turn = self._turns.get(item.request)
        self.size += 1
        if turn is None:
            self._turns[item.request] = _Turn(item.queued_s, deque((item,)))
            self._by_age[item.request] = None
        else:
            turn.items.append(item)

    def pop(self, now_s: float) -> Item:
        """Take the next item; its request goes to the end of the line."""
        request, turn = next(iter(self._turns.items()))
        item = turn.items.popleft()
        self.size -= 1
        if turn.items:
            turn.since_s = now_s
            self._turns.move_to_end(request)
        else:
            self._forget(request)
        return item

    def withdraw(self, request: Hashable) -> int:
        """Forget a request; return how many of its items waited here."""
        turn = self._turns.get(request)
        if turn is None:
            return 0
        self._forget(request)
        self.size -= len(turn.items)
        return len(turn.items)

    @property
    def requests(self) -> int:
        return len(self._turns)

    @property
    def since_s(self) -> float:
        """When the request that comes next began to wait for this turn."""
        return next(iter(self._turns.values())).since_s

    @property
    def first(self) -> Item:
        """The item that comes next."""
        return next(iter(self._turns.values())).items[0]

    @property
    def oldest(self) -> Item:
        """The item that has been queued longest."""
        return self._turns[next(iter(self._by_age))].items[0]

    def __len__(self) -> int:
        return self.size

    def _forget(self, request: Hashable) -> None:
        del self._turns[request]
        del self._by_age[request]


class Bucket:
    """The items of one key: a lane for each priority, and one for those whose time is over.

    A policy is never shown an empty one.
    """

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.lanes = {priority: Lane() for priority in Priority}
        # Promised for a moment that cannot be kept any more: served when nobody else waits.
        self.late = Lane()
        self._lanes = (*self.lanes.values(), self.late)

    def append(self, item: Item) -> None:
        self.lanes[item.terms.priority].append(item)

    def next_priority(self, shares: Shares) -> Priority | None:
        """Return whose turn it is; None: only late items wait."""
        found = None
        for priority, lane in self.lanes.items():
            if lane.size:
                if found is not None:
                    return shares.first_of(self._waiting())
                found = priority
        return found

    def _waiting(self) -> list[Priority]:
        return [priority for priority, lane in self.lanes.items() if lane.size]

    def take_all(self) -> list[Item]:
        """Take everything, in no order that matters."""
        return [lane.pop(0.0) for lane in self._lanes for _ in range(len(lane))]

    def loads(self) -> dict[Priority, Load]:
        """Return what waits by priority; whoever is late is served after everybody else."""
        return {
            priority: Load(len(lane), lane.requests)
            for priority, lane in self.lanes.items()
            if lane
        }

    @property
    def due_s(self) -> float:
        """When the first of those that come next is due; infinity: only late items wait."""
        return min(
            (lane.first.terms.due_s for lane in self.lanes.values() if lane), default=math.inf
        )

    def withdraw(self, request: Hashable) -> int:
        """Forget a request; return how many of its items waited here."""
        return sum(lane.withdraw(request) for lane in self._lanes)

    @property
    def oldest(self) -> Item:
        """The item that has been queued longest."""
        return min(
            (lane.oldest for lane in self._lanes if lane.size), key=lambda item: item.queued_s
        )

    def __len__(self) -> int:
        return sum([lane.size for lane in self._lanes])

    def __repr__(self) -> str:
        return f"<Bucket {self.key} | {len(self)} waiting>"

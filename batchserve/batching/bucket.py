"""Items of one shape and dtype, waiting in the order of their arrival."""

from collections import deque

from batchserve.batch import Item


class Bucket:
    """A FIFO of items that can be stacked; a policy is never shown an empty one."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    def append(self, item: Item) -> None:
        self._items.append(item)

    @property
    def oldest_s(self) -> float:
        """When the item that waits longest was queued."""
        return self._items[0].queued_s

    def drop_dead(self, now_s: float) -> list[Item]:
        """Forget the items that nobody waits for any more; return those whose time is over."""
        live: deque[Item] = deque()
        expired: list[Item] = []
        for item in self._items:
            if item.deadline_s <= now_s:
                expired.append(item)
            elif not item.future.done():
                live.append(item)
        self._items = live
        return expired

    def pop(self, most: int) -> list[Item]:
        """Take up to `most` items, oldest first."""
        return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<Bucket | {len(self)} waiting>"

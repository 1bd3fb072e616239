"""Items of one shape and dtype, waiting in the order of their arrival."""

from collections import deque
from collections.abc import Iterator

from batchserve.batch import Item


class Bucket:
    """A FIFO of items that can be stacked. Never empty while the batcher keeps it."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    def append(self, item: Item) -> None:
        self._items.append(item)

    @property
    def oldest_s(self) -> float:
        """When the item that waits longest was queued."""
        return self._items[0].queued_s

    def pop_live(self, most: int) -> Iterator[Item]:
        """Yield up to `most` items that somebody still waits for, oldest first.

        An item whose future is done was cancelled or answered elsewhere; it is dropped here.
        """
        taken = 0
        while self._items and taken < most:
            item = self._items.popleft()
            if not item.future.done():
                taken += 1
                yield item

    def drop_done(self) -> None:
        """Forget the items that nobody waits for any more."""
        self._items = deque(item for item in self._items if not item.future.done())

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<Bucket | {len(self)} waiting>"

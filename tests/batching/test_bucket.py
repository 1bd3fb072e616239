"""A bucket is first in, first out, and forgets what nobody waits for."""

import asyncio

import torch

from batchserve.batch import Item
from batchserve.batching.bucket import Bucket
from batchserve.testing import run_virtual


async def _items(count: int) -> list[Item]:
    loop = asyncio.get_running_loop()
    return [Item(torch.tensor(i), loop.create_future(), float(i), 1e9) for i in range(count)]


def test_it_gives_items_in_the_order_of_their_arrival_and_no_more_than_asked():
    async def main() -> None:
        items = await _items(5)
        bucket = Bucket()
        for item in items:
            bucket.append(item)
        assert bucket.oldest_s == 0.0
        assert bucket.pop(3) == items[:3]
        assert (len(bucket), bucket.oldest_s) == (2, 3.0)
        assert repr(bucket) == "<Bucket | 2 waiting>"

    run_virtual(main)


def test_items_that_nobody_waits_for_take_no_place():
    async def main() -> None:
        items = await _items(5)
        bucket = Bucket()
        for item in items:
            bucket.append(item)
        items[0].future.cancel()
        items[2].future.cancel()
        items[3].deadline_s = 7.0
        assert bucket.drop_dead(now_s=7.0) == [items[3]]
        assert bucket.pop(5) == [items[1], items[4]]
        assert len(bucket) == 0

    run_virtual(main)

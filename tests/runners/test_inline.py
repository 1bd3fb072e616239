"""The pass on the loop's own thread."""

import asyncio

import torch

from batchserve.runners.forward import Forward
from batchserve.runners.inline import InlineRunner
from batchserve.tasks.tensor import TensorTask
from tests.models import Double


async def test_however_many_passes_there_are_the_loop_has_a_turn_before_each():
    runner = InlineRunner(Forward(Double(), TensorTask(), torch.device("cpu"), torch.float32))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(others())
    for _ in range(10):
        (row,) = await runner.forward([torch.tensor([2.0])])
        assert row.tolist() == [4.0]
    busy.cancel()
    assert turns >= 10

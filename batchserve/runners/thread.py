"""The forward pass on a thread of its own, so that the loop goes on reading and answering."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from batchserve.runners.forward import Forward


class ThreadRunner:
    name = "thread"

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")

    async def forward(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._forward, tensors)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

"""Runners that obey a test."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import torch


class FakeRunner:
    """Answers each item with itself, after as long as the test says.

    Args:
        seconds: of a pass, by batch size.
        rows: what to answer instead; may raise.
    """

    name = "fake"
    streams = 1
    holds_up_the_loop = False
    queues = False

    def __init__(
        self,
        seconds: Callable[[int], float] = lambda _size: 0.0,
        rows: Callable[[Sequence[torch.Tensor]], Sequence[Any]] = list,
    ) -> None:
        self._seconds = seconds
        self._rows = rows
        self.batches: list[Sequence[torch.Tensor]] = []

    async def forward(
        self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
    ) -> Sequence[Any]:
        self.batches.append(tensors)
        await asyncio.sleep(self._seconds(len(tensors)))
        return self._rows(tensors)

    def close(self) -> None:
        """Nothing is held."""


class GatedRunner(FakeRunner):
    """Holds each pass until the test lets it go."""

    name = "gated"

    def __init__(self) -> None:
        super().__init__()
        self._started = asyncio.Semaphore(0)
        self._gate = asyncio.Semaphore(0)

    async def forward(
        self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
    ) -> Sequence[Any]:
        self._started.release()
        await self._gate.acquire()
        return await super().forward(tensors, all_cores=all_cores)

    async def wait_started(self) -> None:
        """Return when a pass has begun that was not waited for yet."""
        await self._started.acquire()

    def release(self) -> None:
        """Let one pass go."""
        self._gate.release()

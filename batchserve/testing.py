"""For tests: a loop on virtual time, and runners that obey the test."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of waiting for it.

    Nothing outside the loop can wake it: no threads, no sockets. Where nothing is left to do and
    the awaited result is not there, it raises instead of hanging.
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: everything waits, and no timer is set")
        self._loop.now_s += timeout
        return super().select(0)


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main()` on virtual time, from 0 s."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


class FakeRunner:
    """Answers each item with itself, after as long as the test says.

    Args:
        seconds: of a pass, by batch size.
        rows: what to answer instead; may raise.
    """

    name = "fake"

    def __init__(
        self,
        seconds: Callable[[int], float] = lambda _size: 0.0,
        rows: Callable[[Sequence[torch.Tensor]], Sequence[Any]] = list,
    ) -> None:
        self._seconds = seconds
        self._rows = rows
        self.batches: list[Sequence[torch.Tensor]] = []

    async def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
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

    async def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        self._started.release()
        await self._gate.acquire()
        return await super().forward(tensors)

    async def wait_started(self) -> None:
        """Return when a pass has begun that was not waited for yet."""
        await self._started.acquire()

    def release(self) -> None:
        """Let one pass go."""
        self._gate.release()

"""How a worker leaves without losing a request.

    SIGTERM ─┬─ after a reload: serve on until a successor is ready ─┐
             └─ a stop: not ready, but serve on for the grace ───────┤
    enough requests ── served ───────────────────────────────────────┼─▶ close the door ─▶ finish
    a lost device, a hung forward pass ──────────────────────────────┘   what is inside ─▶ leave

Between the sequence's beginning and its end the worker answers as always, with `Connection: close`.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol

from batchserve.lineage import Lineage

logger = logging.getLogger(__name__)

# Connections that have said nothing for so long are taken for idle.
QUIET_S = 0.25
# How often to look for a successor.
LOOK_S = 0.1
# What a worker that is replaced for being broken gives to its requests.
BROKEN_S = 2.0
# Loop turns after which what lies in the sockets' buffers has become requests.
TURNS_TO_LET_IN = 5


class Traffic:
    """The requests that are being answered, and what clients are to know of a worker that leaves.

    Entered for each request.

    Args:
        max_requests: calls `on_enough` when so many have come.

    Attributes:
        dismissing: answers ask the client to use another connection next time.
        surplus: the connections whose answers do so, if not all.
        draining: why readiness is to fail, if it is.
    """

    def __init__(self, max_requests: int = sys.maxsize) -> None:
        self.in_progress = 0
        self.count = 0
        self.dismissing = False
        self.surplus: set[Any] = set()
        self.draining = ""
        self.on_enough: Callable[[], None] = lambda: None
        self._max_requests = max_requests

    def __enter__(self) -> None:
        self.in_progress += 1
        self.count += 1
        if self.count == self._max_requests:
            self.on_enough()

    def sees_off(self, connection: object) -> bool:
        """Return whether this answer is to be the last one on its connection."""
        return self.dismissing or connection in self.surplus

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.in_progress -= 1


class Door(Protocol):
    """The worker's sockets."""

    async def opened(self) -> None:
        """Return once connections are accepted, or were."""

    async def close(self, *, for_good: bool) -> None:
        """Accept no more connections; keep those that there are.

        Args:
            for_good: nobody else goes on accepting them.
        """

    def leave(self, within_s: float) -> None:
        """Let go of idle connections, and end the process, by force if it takes much longer."""


class Leaving:
    """Takes one worker out of service, once, whoever asks for it and how often.

    Args:
        traffic: what the worker is answering.
        lineage: what it knows of its successors.
        door: its sockets.
        grace_s: how long a stop keeps serving while load balancers look away.
        drain_s: how long to wait for what was accepted.
    """

    def __init__(
        self, traffic: Traffic, lineage: Lineage, door: Door, grace_s: float, drain_s: float
    ) -> None:
        self._traffic = traffic
        self._lineage = lineage
        self._door = door
        self._grace_s = grace_s
        self._drain_s = drain_s
        self._steps: asyncio.Task[None] | None = None
        self._broken = False

    def step_down(self) -> None:
        """Leave as SIGTERM asks."""
        self._begin(self._step_down())

    def retire(self) -> None:
        """Leave after `max_requests`: Gunicorn forks another worker."""
        self._begin(self._retire())

    def replace_worker(self, reason: str) -> None:
        """Leave at once, because this process cannot be helped: Gunicorn forks another worker.

        Args:
            reason: for the log, and for who asks whether the worker is ready.
        """
        if self._broken:
            return
        self._broken = True
        logger.critical("this worker cannot go on and is replaced: %s", reason)
        if self._steps is not None:
            self._steps.cancel()
            self._steps = None
        self._traffic.draining = reason
        self._begin(self._go(min(BROKEN_S, self._drain_s)))

    def _begin(self, steps: Coroutine[Any, Any, None]) -> None:
        if self._steps is None:
            self._steps = asyncio.get_running_loop().create_task(steps, name="leaving")
        else:
            steps.close()

    async def _step_down(self) -> None:
        await self._wait_for_successor()
        if not self._lineage.followed:
            self._traffic.draining = "the server is shutting down"
            self._traffic.dismissing = True
            await asyncio.sleep(self._grace_s)
        await self._go(self._drain_s)

    async def _retire(self) -> None:
        # After a reload that failed, whoever is forked next would not start.
        await self._wait_for_successor()
        logger.info("leaving after %d requests", self._traffic.count)
        await self._go(self._drain_s)

    async def _wait_for_successor(self) -> None:
        while self._lineage.expects_successor:  # noqa: ASYNC110 - another process tells
            await asyncio.sleep(LOOK_S)

    async def _go(self, drain_s: float) -> None:
        self._traffic.dismissing = True
        # A signal may come before that.
        await self._door.opened()
        # Otherwise, the others and the master listen on.
        await self._door.close(for_good=self._lineage.stopping)
        clock = asyncio.get_running_loop().time
        give_up_s = clock() + drain_s
        while clock() < give_up_s and not await self._is_quiet():
            pass
        self._door.leave(max(0.0, give_up_s - clock()))

    async def _is_quiet(self) -> bool:
        before = self._traffic.count
        await asyncio.sleep(QUIET_S)
        for _ in range(TURNS_TO_LET_IN):
            await asyncio.sleep(0)
        return self._traffic.count == before and not self._traffic.in_progress

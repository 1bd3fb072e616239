"""The load itself: an open loop, or a closed one."""

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle

from batchserve.bench.pool import Pool
from batchserve.bench.tally import Tally
from batchserve.bench.target import Target

# A client whom nobody answers does not try again at once.
PAUSE_S = 0.1
# Of answers whose latency is shown meanwhile.
SHOWN = 400

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Job:
    """What one process sends.

    Attributes:
        target: where to.
        wires: requests as bytes, sent in turn.
        begin_s: on the monotonic clock.
        seconds: for how long requests are sent.
        clients: of a closed loop, each of which sends its next request when it was answered.
        moments: of an open loop: when requests are sent, in seconds from the begin.
        connections: at most so many.
        timeout_s: after which a request is given up.
    """

    target: Target
    wires: Sequence[bytes]
    begin_s: float
    seconds: float
    clients: int = 0
    moments: "array[float]" = field(default_factory=lambda: array("d"))
    connections: int = 1000
    timeout_s: float = 30.0


@dataclass(frozen=True)
class Progress:
    """How far a process is: counts so far, and some latencies since it told last, in seconds."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    latencies_s: Sequence[float] = ()


class Generator:
    """Sends a job's requests, and notes what becomes of them.

    A request that the server does not take ends the job: all others are the same.
    """

    def __init__(self, job: Job, sleep: Sleep, clock: Clock = time.monotonic) -> None:
        self._job = job
        self._sleep = sleep
        self._clock = clock
        self._wires = cycle(job.wires)
        self._end_s = job.begin_s + job.seconds
        self._stop = asyncio.Event()
        self._quiet = asyncio.Event()
        self._answered = 0
        self._told = 0
        self._pool = Pool(
            job.target, job.connections, job.timeout_s, job.begin_s, clock, self._done
        )

    async def run(self) -> Tally:
        """Return what became of all requests, once each of them has an end."""
        watching = asyncio.create_task(self._pool.give_up_late())
        stopping = asyncio.create_task(self._stop.wait())
        sending = asyncio.create_task(self._send())
        await asyncio.wait({stopping, sending}, return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, stopping, sending):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._pool.close()
        return self._pool.tally

    def stop(self) -> None:
        """End early; what is in progress is not noted."""
        self._stop.set()

    def progress(self) -> Progress:
        """Return how far it is."""
        tally = self._pool.tally
        done, since = len(tally), self._told
        self._told = done
        step = max(1, (done - since) // SHOWN)
        return Progress(
            sent=done + self._pool.in_flight,
            answered=self._answered,
            failed=done - self._answered,
            in_flight=self._pool.in_flight,
            latencies_s=[
                tally.done_s[place] - tally.meant_s[place] for place in range(since, done, step)
            ],
        )

    async def _send(self) -> None:
        await self._sleep(max(0.0, self._job.begin_s - self._clock()))
        cpu_s = time.process_time()
        for _ in range(self._job.clients):
            self._next()
        await self._send_at_moments()
        await self._sleep(max(0.0, self._end_s - self._clock()))
        self._pool.tally.busy = (time.process_time() - cpu_s) / self._job.seconds
        while self._pool.in_flight:
            self._quiet.clear()
            await self._quiet.wait()

    async def _send_at_moments(self) -> None:
        begin_s = self._job.begin_s
        for moment in self._job.moments:
            meant_s = begin_s + moment
            early_s = meant_s - self._clock()
            # Who is late must read answers, too.
            await (self._sleep(early_s) if early_s > 0 else asyncio.sleep(0))
            self._pool.send(next(self._wires), meant_s)

    def _next(self) -> None:
        now_s = self._clock()
        if now_s < self._end_s and not self._stop.is_set():
            self._pool.send(next(self._wires), now_s)

    def _done(self, outcome: str) -> None:
        is_success = outcome.startswith("2")
        self._answered += is_success
        if is_refusal(outcome):
            self._stop.set()
        if self._job.clients:
            if is_success:
                self._next()
            else:
                asyncio.get_running_loop().call_later(PAUSE_S, self._next)
        if not self._pool.in_flight:
            self._quiet.set()


def is_refusal(outcome: str) -> bool:
    """Whether the server does not take what it was sent, and never will."""
    return outcome.startswith(("3", "4")) and not outcome.startswith(("408", "429"))

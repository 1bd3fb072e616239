"""Clients, and as many server processes as there are devices: one run in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from batchserve.batch import Batch, CloseReason
from batchserve.batching.scheduler import Scheduler
from batchserve.simulation.agenda import Agenda
from batchserve.simulation.machine import Machine
from batchserve.simulation.traffic import Ask, Traffic
from batchserve.simulation.visit import ANSWERED, Visit
from batchserve.simulation.worker import Promises, Worker

# Clients who try again spread over this share of what they were asked to wait.
JITTER = 0.5


@dataclass(frozen=True)
class Site:
    """What is simulated.

    Attributes:
        machine: one device with its process.
        scheduler: makes the scheduler of one process.
        promises: what requests are promised.
        devices: processes, each with a device of its own; whoever comes gets any of them.
        retries: how often a client tries again who was refused, after `Retry-After`.
        seed: of all that is random here.
    """

    machine: Machine
    scheduler: Callable[[], Scheduler]
    promises: Promises = Promises()
    devices: int = 1
    retries: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass: when, how large, why; and how many items were left waiting at its end."""

    formed_s: float
    seconds: float
    size: int
    reason: CloseReason
    queued: int


@dataclass(slots=True)
class Run:
    """What came of it.

    Attributes:
        visits: every request that has ended, in the order of their ends.
        passes: every forward pass, in the order of their ends.
        devices: how many there were.
        seconds: for which requests were sent.
    """

    devices: int
    seconds: float
    visits: list[Visit] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)


def simulate(
    traffic: Traffic,
    site: Site,
    on_time: Callable[[float], None] = lambda _now_s: None,
    on_batch: Callable[[Batch], None] = lambda _batch: None,
) -> Run:
    """Return what a server would do.

    Args:
        traffic: what is asked of it.
        site: the server.
        on_time: called with the time, in seconds, whenever a request is sent.
        on_batch: called with each batch after its pass.
    """
    return _Simulation(traffic, site, on_time, on_batch).run()


class _Simulation:
    def __init__(
        self,
        traffic: Traffic,
        site: Site,
        on_time: Callable[[float], None],
        on_batch: Callable[[Batch], None],
    ) -> None:
        self._traffic = traffic
        self._site = site
        self._on_time = on_time
        self._on_batch = on_batch
        self._agenda = Agenda()
        self._asks = traffic.asks()
        self._rng = random_for(site.seed, "clients")
        self._run = Run(site.devices, traffic.seconds)
        self._workers = [self._worker(number) for number in range(site.devices)]

    def run(self) -> Run:
        self._send_next()
        self._agenda.run()
        return self._run

    def _worker(self, number: int) -> Worker:
        site = self._site
        return Worker(
            self._agenda,
            site.scheduler(),
            site.machine,
            site.promises,
            random_for(site.seed, f"device {number}"),
            self._end,
            self._count,
        )

    def _send_next(self) -> None:
        """Enter the next request; only one is ahead, because there may be millions."""
        ask = next(self._asks, None)
        if ask is not None:
            self._agenda.at(ask.at_s, self._send, ask)

    def _send(self, ask: Ask) -> None:
        self._visit(ask, self._agenda.now_s, 0)
        self._send_next()

    def _visit(self, ask: Ask, first_s: float, tries: int) -> None:
        self._on_time(self._agenda.now_s)
        number = self._rng.randrange(len(self._workers)) if len(self._workers) > 1 else 0
        self._workers[number].receive(Visit(ask, first_s, tries, number))

    def _end(self, visit: Visit, retry_after_s: float | None) -> None:
        if retry_after_s is not None and visit.tries < self._site.retries:
            wait_s = retry_after_s * (1 + JITTER * self._rng.random())
            again = (visit.ask, visit.first_s, visit.tries + 1)
            self._agenda.at(self._agenda.now_s + wait_s, self._visit, *again)
            return
        self._run.visits.append(visit)
        ask = self._traffic.then(visit.ask, self._agenda.now_s)
        if ask is not None:
            # Who has just been refused would be refused again, and again, at the same instant.
            wait_s = 0.0 if visit.outcome == ANSWERED else retry_after_s or 1.0
            self._agenda.at(ask.at_s + wait_s, self._visit, ask, ask.at_s + wait_s, 0)

    def _count(self, batch: Batch, queued: int) -> None:
        self._run.passes.append(
            Pass(batch.formed_s, batch.forward_s, len(batch), batch.reason, queued)
        )
        self._on_batch(batch)


def random_for(seed: int, purpose: str) -> Random:
    """Return a generator of its own for each purpose, so that one does not disturb another."""
    return Random(f"{seed} {purpose}")  # noqa: S311 - no secret

"""One situation, looked at under several policies."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from batchserve.batch import Priority
from batchserve.config import ModelConfig
from batchserve.errors import ConfigError
from batchserve.simulation.machine import Machine
from batchserve.simulation.oracle import most_in_time
from batchserve.simulation.report import Bound, Outcome
from batchserve.simulation.rivals import scheduler_maker
from batchserve.simulation.simulator import Site, random_for, simulate
from batchserve.simulation.summary import summarise
from batchserve.simulation.traffic import Bursts, Closed, Mix, Open, Traffic, diurnal, poisson
from batchserve.simulation.worker import Promises

DIURNAL_DEPTH = 0.8


@dataclass(frozen=True)
class Study:
    """Who asks, and who answers.

    Attributes:
        model: its configuration.
        machine: one device.
        largest: N.
        default_timeout_ms: of the server.
        pattern: of the arrivals: poisson, bursty, diurnal, closed or recorded.
        rate: requests per second.
        seconds: for how long.
        recorded_s: arrivals, where they are recorded.
        clients: of a closed loop.
        bursts: where it is bursty.
        items: how many inputs a request has, each with its weight.
        priorities: likewise.
        timeout_ms: that clients state; None: none.
        devices: each with a process of its own.
        retries: of a client who is refused.
        seed: of all randomness.
    """

    model: ModelConfig
    machine: Machine
    largest: int
    default_timeout_ms: float = 30_000
    pattern: str = "poisson"
    rate: float = 1.0
    seconds: float = 60.0
    recorded_s: list[float] = field(default_factory=list)
    clients: int = 1
    bursts: Bursts = field(default_factory=Bursts)
    items: dict[int, float] = field(default_factory=lambda: {1: 1.0})
    priorities: dict[Priority, float] = field(default_factory=lambda: {Priority.NORMAL: 1.0})
    timeout_ms: float | None = None
    devices: int = 1
    retries: int = 0
    seed: int = 0

    @property
    def capacity(self) -> float:
        """Requests per second that all devices can answer at most."""
        return self.devices * self.machine.capacity(self.largest, self._mix().mean_items)

    @property
    def promise_s(self) -> float | None:
        """After which an answer is late; None: there is no promise."""
        stated_ms = self.timeout_ms or self.model.slo_ms
        return None if stated_ms is None else stated_ms / 1000

    def look(self, policy: str, on_time: Callable[[float], None] = lambda _now_s: None) -> Outcome:
        """Simulate one policy.

        Raises:
            ConfigError: there is no such policy.
        """
        site = Site(
            machine=self.machine,
            scheduler=scheduler_maker(
                policy, self.model, self.largest, self.machine.warm_up(self.largest)
            ),
            promises=Promises(self.default_timeout_ms, self.model.slo_ms),
            devices=self.devices,
            retries=self.retries,
            seed=self.seed,
        )
        run = simulate(self.traffic(), site, on_time)
        return Outcome(policy, summarise(run, self.promise_s), run)

    def bound(self) -> Bound:
        """Return what an oracle could do.

        Raises:
            ConfigError: it is known for simpler situations only.
        """
        promise_s = self.promise_s
        simple = self.devices == 1 and self.items == {1: 1.0} and self.pattern != "closed"
        if promise_s is None or not simple:
            raise ConfigError(
                "--against oracle: it is known for one device, open arrivals, one input per "
                "request, and a promise (slo_ms in the config, --slo-ms, or --timeout-ms)"
            )
        arrivals_s = list(takewhile(lambda at_s: at_s < self.seconds, self._times()))
        most = most_in_time(arrivals_s, promise_s, self.machine.mean_s, self.largest)
        return Bound(most / self.seconds)

    def traffic(self) -> Traffic:
        """Return the same requests each time."""
        if self.pattern == "closed":
            return Closed(self.clients, self.seconds, self._mix())
        return Open(self._times(), self.seconds, self._mix())

    def situation(self) -> dict[str, Any]:
        """Return what a reader must know to make sense of the numbers."""
        return {
            "model": self.model.name,
            "max_batch_size": self.largest,
            "slo_ms": self.model.slo_ms,
            "forward_ms": {size: 1000 * took for size, took in self.machine.forward_s.items()},
            "noise": self.machine.noise,
            "devices": self.devices,
            "capacity": self.capacity,
            "arrivals": self.pattern,
            "rate": None if self.pattern == "closed" else self.rate,
            "clients": self.clients if self.pattern == "closed" else None,
            "seconds": self.seconds,
            "seed": self.seed,
        }

    def _times(self) -> Iterable[float]:
        rng = random_for(self.seed, "arrivals")
        match self.pattern:
            case "poisson":
                return poisson(self.rate, rng)
            case "bursty":
                return self.bursts.times(self.rate, rng)
            case "diurnal":
                return diurnal(self.rate, DIURNAL_DEPTH, self.seconds, rng)
        return self.recorded_s

    def _mix(self) -> Mix:
        rng = random_for(self.seed, "mix")
        return Mix(self.items, self.priorities, self.timeout_ms, rng)

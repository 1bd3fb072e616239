"""Who asks when: Poisson, bursty, diurnal, recorded, and clients who wait for their answers.

All rates are requests per second; all randomness comes from the generator that is passed in.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from batchserve.batch import Priority


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client sends.

    Attributes:
        at_s: when it reaches the door.
        items: inputs in the request.
        priority: as in `X-Priority`.
        timeout_ms: as in `X-Request-Timeout-Ms`; None: the header is left out.
        bucket: a name for the inputs' shape.
        client: of a closed loop; such a client asks again once it is answered.
    """

    at_s: float
    items: int = 1
    priority: Priority = Priority.NORMAL
    timeout_ms: float | None = None
    bucket: str = "usual"
    client: int | None = None


def poisson(rate: float, rng: Random) -> Iterator[float]:
    """Yield times, for ever."""
    now_s = 0.0
    while True:
        now_s += rng.expovariate(rate)
        yield now_s


@dataclass(frozen=True, slots=True)
class Bursts:
    """A Markov-modulated Poisson process with two states.

    Attributes:
        factor: the rate within a burst, as a multiple of the mean rate.
        share: of the time that is spent in bursts.
        cycle_s: from burst to burst, on average.
    """

    factor: float = 3.0
    share: float = 0.2
    cycle_s: float = 5.0

    def times(self, rate: float, rng: Random) -> Iterator[float]:
        """Yield times, for ever."""
        quiet = (1 - self.share * self.factor) / (1 - self.share)
        states = [
            (rate * quiet, (1 - self.share) * self.cycle_s),
            (rate * self.factor, self.share * self.cycle_s),
        ]
        begin_s, state = 0.0, 0
        while True:
            rate_now, mean_s = states[state]
            end_s = begin_s + rng.expovariate(1 / mean_s)
            yield from _between(begin_s, end_s, rate_now, rng)
            begin_s, state = end_s, 1 - state


def _between(begin_s: float, end_s: float, rate: float, rng: Random) -> Iterator[float]:
    now_s = begin_s
    while rate > 0 and (now_s := now_s + rng.expovariate(rate)) < end_s:
        yield now_s


def diurnal(rate: float, depth: float, period_s: float, rng: Random) -> Iterator[float]:
    """Yield times whose rate swings as a sine by `depth` (0 to 1) around `rate`, for ever.

    By thinning (Lewis and Shedler, 1979).
    """
    for now_s in poisson(rate * (1 + depth), rng):
        swing = 1 + depth * math.sin(2 * math.pi * now_s / period_s)
        if rng.random() * (1 + depth) < swing:
            yield now_s


@dataclass(slots=True)
class Mix:
    """What requests are like.

    Attributes:
        items: how many inputs, each with its weight.
        priorities: likewise.
        timeout_ms: that clients state; None: they state none.
        rng: decides.
    """

    items: dict[int, float] = field(default_factory=lambda: {1: 1.0})
    priorities: dict[Priority, float] = field(default_factory=lambda: {Priority.NORMAL: 1.0})
    timeout_ms: float | None = None
    rng: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - no secret

    def ask(self, at_s: float, client: int | None = None) -> Ask:
        """Draw a request."""
        return Ask(
            at_s,
            _draw(self.items, self.rng),
            _draw(self.priorities, self.rng),
            self.timeout_ms,
            client=client,
        )

    @property
    def mean_items(self) -> float:
        """Inputs per request."""
        return sum(items * weight for items, weight in self.items.items()) / sum(
            self.items.values()
        )


T = TypeVar("T")


def _draw(weights: dict[T, float], rng: Random) -> T:
    if len(weights) == 1:
        return next(iter(weights))
    return rng.choices(list(weights), list(weights.values()))[0]


class Open:
    """Clients who send at given times, whatever becomes of it.

    Args:
        times: in order.
        seconds: nothing is sent after that.
        mix: of requests.
    """

    def __init__(self, times: Iterable[float], seconds: float, mix: Mix) -> None:
        self._times = times
        self.seconds = seconds
        self._mix = mix

    def asks(self) -> Iterator[Ask]:
        for at_s in self._times:
            if at_s >= self.seconds:
                return
            yield self._mix.ask(at_s)

    def then(self, ask: Ask, now_s: float) -> Ask | None:
        """Return what the client sends next, now that it has been answered."""
        return None


class Closed:
    """So many clients, each of which asks again as soon as it is answered, as wrk does."""

    def __init__(self, clients: int, seconds: float, mix: Mix) -> None:
        self._clients = clients
        self.seconds = seconds
        self._mix = mix

    def asks(self) -> Iterator[Ask]:
        return (self._mix.ask(0.0, client) for client in range(self._clients))

    def then(self, ask: Ask, now_s: float) -> Ask | None:
        """Return what the client sends next, now that it has been answered."""
        if ask.client is None or now_s >= self.seconds:
            return None
        return self._mix.ask(now_s, ask.client)


class Given:
    """Requests that are written down."""

    def __init__(self, asks: Iterable[Ask]) -> None:
        self._asks = sorted(asks, key=lambda ask: ask.at_s)
        self.seconds = self._asks[-1].at_s if self._asks else 0.0

    def asks(self) -> Iterator[Ask]:
        return iter(self._asks)

    def then(self, ask: Ask, now_s: float) -> Ask | None:
        """Return what the client sends next, now that it has been answered."""
        return None


Traffic = Open | Closed | Given

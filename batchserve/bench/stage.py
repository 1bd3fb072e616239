"""A load, and for how long."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from batchserve.bench.schedule import Arrivals, moments


@dataclass(frozen=True)
class Stage:
    """One load: closed with `clients`, open with `moments`.

    Attributes:
        name: for people.
        seconds: that are measured.
        warm_up_s: before them, under the same load.
        clients: that send their next request when they were answered.
        moments: at which requests are sent, in seconds from the begin of the warm-up.
        rate: of these, in a second.
    """

    name: str
    seconds: float
    warm_up_s: float
    clients: int = 0
    moments: Sequence[float] = field(default=(), repr=False)
    rate: float = 0.0

    @property
    def all_s(self) -> float:
        """Warm-up and all."""
        return self.warm_up_s + self.seconds

    def share(self, place: int, processes: int) -> tuple[int, "array[float]"]:
        """Return the clients and the moments of one process."""
        clients = self.clients // processes + (place < self.clients % processes)
        return clients, array("d", self.moments[place::processes])


def closed(clients: int, seconds: float, warm_up_s: float) -> Stage:
    """So many clients who wait for their answers."""
    name = "1 client" if clients == 1 else f"{clients} clients"
    return Stage(name, seconds, warm_up_s, clients=clients)


def open_(rate: float, arrivals: Arrivals, seconds: float, warm_up_s: float, seed: int) -> Stage:
    """So many requests in a second, whatever becomes of them."""
    sent = moments(arrivals, rate, warm_up_s + seconds, seed)
    return Stage(f"{rate:.4g}/s", seconds, warm_up_s, moments=sent, rate=rate)

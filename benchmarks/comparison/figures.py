"""From visits to figures: medians, and medians of ratios. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from comparison.contestants import Visit


@dataclass(frozen=True)
class Figures:
    """A server at one number of clients: medians over the rounds, and the memory at its peak."""

    rate: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float | None
    batch_size: float | None
    memory_mb: float | None
    failures: int


def of(visits: Iterable[Visit], workload: str, clients: int, server: str) -> list[Visit]:
    """Return a server's visits at one number of clients, by round."""
    found = [
        visit
        for visit in visits
        if (visit.workload, visit.clients, visit.server) == (workload, clients, server)
    ]
    return sorted(found, key=lambda visit: visit.turn)


def figures(visits: list[Visit]) -> Figures:
    """Return the figures of one server at one number of clients."""
    memory = _known(visits, lambda visit: visit.memory_mb)
    return Figures(
        rate=median(visit.rate for visit in visits),
        p50_ms=_median(visits, lambda visit: visit.p50_ms),
        p99_ms=_median(visits, lambda visit: visit.p99_ms),
        cpu_us=_median(visits, cpu_us),
        batch_size=_median(visits, lambda visit: visit.batch_size),
        memory_mb=max(memory) if memory else None,
        failures=sum(visit.non_2xx + visit.socket_errors for visit in visits),
    )


def cpu_us(visit: Visit) -> float | None:
    """Return the CPU time of all processes for one request, in microseconds."""
    if not visit.cpu_us:
        return None
    return sum(share.main_us + share.others_us for share in visit.cpu_us)


def ratio(ours: list[Visit], others: list[Visit]) -> float | None:
    """Return the median over the rounds of our rate divided by another's in the same round."""
    theirs = {visit.turn: visit.rate for visit in others}
    ratios = [visit.rate / theirs[visit.turn] for visit in ours if theirs.get(visit.turn, 0) > 0]
    return median(ratios) if ratios else None


def best(visits: list[Visit], workload: str, clients: int, servers: Iterable[str]) -> str | None:
    """Return who has the highest median rate."""
    rates = {
        server: figures(found).rate
        for server in servers
        if (found := of(visits, workload, clients, server))
    }
    return max(rates, key=lambda server: rates[server]) if rates else None


def _known(visits: list[Visit], figure: Callable[[Visit], float | None]) -> list[float]:
    return [value for visit in visits if (value := figure(visit)) is not None]


def _median(visits: list[Visit], figure: Callable[[Visit], float | None]) -> float | None:
    known = _known(visits, figure)
    return median(known) if known else None

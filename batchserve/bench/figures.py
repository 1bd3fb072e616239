"""What tallies say of a load: pure."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchserve.bench.stage import Stage
from batchserve.bench.tally import Tally

# So many answers' Server-Timing are read, and so many points are drawn.
MOST_READ, MOST_DRAWN = 20_000, 4_000
# https://www.w3.org/TR/server-timing/
DURATION = re.compile(rb"([\w-]+)[^,]*?;\s*dur=([\d.]+)")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """How a server fared under a load. Latency counts from when a request was meant to be sent.

    Attributes:
        name: the load's.
        clients: of a closed loop; 0: it was open.
        rate: of an open loop, in a second; 0: it was closed.
        seconds: that were measured.
        offered: requests in a second.
        answered: successes (2xx) that came, in a second.
        goodput: of those that were offered, how many in a second succeeded within the SLO.
        p50_s, p90_s, p99_s, max_s: of the successes' latency; NaN: there was none.
        batch_size: items in a forward pass, on average; NaN: the server does not tell.
        parts_s: medians of what Server-Timing tells, by name.
        rest_s: median of what that leaves of the latency: network, HTTP, and waiting to be sent.
        outcomes: requests by what became of them.
        lag_p99_s: by how much they were sent late.
        busy: the share of a core that the busiest process that sent had used.
        waited: how many found all connections busy.
        connected: how many connections were made.
    """

    name: str
    clients: int
    rate: float
    seconds: float
    offered: float
    answered: float
    goodput: float | None
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    batch_size: float
    parts_s: dict[str, float]
    rest_s: float
    outcomes: dict[str, int]
    lag_p99_s: float
    busy: float
    waited: int
    connected: int

    @property
    def failures(self) -> dict[str, int]:
        """Those of the outcomes that are no success."""
        return {name: count for name, count in self.outcomes.items() if not is_success(name)}


@dataclass(frozen=True)
class Column:
    """All requests of a stage: times in seconds, from its begin."""

    meant_s: Floats
    sent_s: Floats
    done_s: Floats
    succeeded: npt.NDArray[np.bool_]
    batch_sizes: npt.NDArray[np.uint64]
    timings: list[bytes] = field(repr=False)
    outcomes: list[str] = field(repr=False)

    @classmethod
    def of(cls, tallies: Sequence[Tally]) -> "Column":
        """Return what several processes noted, together."""
        outcomes = [tally.names[place] for tally in tallies for place in tally.outcomes]
        return cls(
            meant_s=_joined([tally.meant_s for tally in tallies]),
            sent_s=_joined([tally.sent_s for tally in tallies]),
            done_s=_joined([tally.done_s for tally in tallies]),
            succeeded=np.fromiter(map(is_success, outcomes), bool, len(outcomes)),
            batch_sizes=np.concatenate(
                [np.asarray(tally.batch_sizes, np.uint64) for tally in tallies]
            ),
            timings=[timing for tally in tallies for timing in tally.timings],
            outcomes=outcomes,
        )

    @property
    def latency_s(self) -> Floats:
        return self.done_s - self.meant_s


def figures_of(
    stage: Stage, tallies: Sequence[Tally], slo_s: float | None = None, until_s: float = math.inf
) -> Figures:
    """Sum up a stage.

    Args:
        stage: what was sent; its warm-up does not count.
        tallies: of all processes.
        slo_s: how soon an answer is good; None: nothing is promised.
        until_s: from the begin of the warm-up; where the stage was cut short.
    """
    found = Column.of(tallies)
    until_s = min(until_s, stage.all_s)
    seconds = max(until_s - stage.warm_up_s, 1e-9)
    asked = (found.meant_s >= stage.warm_up_s) & (found.meant_s < until_s)
    came = found.succeeded & (found.done_s >= stage.warm_up_s) & (found.done_s < until_s)
    good = asked & found.succeeded
    latency_s = found.latency_s[good]
    p50_s, p90_s, p99_s, max_s = _percentiles(latency_s, 50, 90, 99, 100)
    parts_s, rest_s = _parts(found, np.flatnonzero(good))
    in_time = None if slo_s is None else float((latency_s <= slo_s).sum()) / seconds
    return Figures(
        name=stage.name,
        clients=stage.clients,
        rate=stage.rate,
        seconds=seconds,
        offered=float(asked.sum()) / seconds,
        answered=float(came.sum()) / seconds,
        goodput=in_time,
        p50_s=p50_s,
        p90_s=p90_s,
        p99_s=p99_s,
        max_s=max_s,
        batch_size=_mean_batch(found.batch_sizes[good]),
        parts_s=parts_s,
        rest_s=rest_s,
        outcomes=dict(
            Counter(found.outcomes[place] for place in np.flatnonzero(asked)).most_common()
        ),
        lag_p99_s=_percentiles((found.sent_s - found.meant_s)[asked], 99)[0],
        busy=max(tally.busy for tally in tallies),
        waited=sum(tally.waited for tally in tallies),
        connected=sum(tally.connected for tally in tallies),
    )


def points_of(stage: Stage, tallies: Sequence[Tally]) -> tuple[Floats, Floats]:
    """Return some successes' moments and latencies; in the warm-up, moments are below 0 s."""
    found = Column.of(tallies)
    places = _some(np.flatnonzero(found.succeeded), MOST_DRAWN)
    return found.meant_s[places] - stage.warm_up_s, found.latency_s[places]


def is_success(outcome: str) -> bool:
    return outcome.startswith("2")


def durations(timing: bytes) -> dict[str, float]:
    """Return what a Server-Timing header tells, in seconds by name."""
    return {name.decode(): float(ms) / 1000 for name, ms in DURATION.findall(timing)}


def _joined(columns: list[Any]) -> Floats:
    return np.concatenate([np.asarray(column, np.float64) for column in columns])


def _percentiles(values: Floats, *percents: float) -> list[float]:
    if not len(values):
        return [math.nan] * len(percents)
    return [float(value) for value in np.percentile(values, percents)]


def _mean_batch(sizes: npt.NDArray[np.uint64]) -> float:
    told = sizes[sizes > 0]
    # Each of a pass's items tells of it.
    return float(len(told) / (1 / told).sum()) if len(told) else math.nan


def _parts(found: Column, places: npt.NDArray[np.intp]) -> tuple[dict[str, float], float]:
    told = [place for place in _some(places, MOST_READ) if found.timings[place]]
    if not told:
        return {}, math.nan
    parts = [durations(found.timings[place]) for place in told]
    names = dict.fromkeys(name for each in parts for name in each)
    rest_s = found.latency_s[told] - np.array([sum(each.values()) for each in parts])
    medians = {name: float(np.median([each.get(name, 0.0) for each in parts])) for name in names}
    return medians, float(np.median(rest_s))


def _some(places: npt.NDArray[np.intp], most: int) -> npt.NDArray[np.intp]:
    """Return evenly chosen ones, where there are too many."""
    return places if len(places) <= most else places[:: math.ceil(len(places) / most)]


# The knee: less load loses throughput, more load only adds latency.
KNEE = 0.9


def knee_of(all_figures: Sequence[Figures]) -> Figures | None:
    """Return the fewest clients that get nine tenths of the highest throughput."""
    closed = sorted((one for one in all_figures if one.clients), key=lambda one: one.clients)
    most = max((one.answered for one in closed), default=0.0)
    reached = (one for one in closed if one.answered >= KNEE * most)
    return next(reached, None) if len(closed) > 1 and most else None

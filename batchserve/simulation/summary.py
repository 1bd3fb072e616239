"""A run in numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchserve.batch import CloseReason
from batchserve.errors import DeadlineExceeded
from batchserve.simulation.simulator import Run
from batchserve.simulation.visit import ANSWERED, Visit


@dataclass(frozen=True, slots=True)
class Summary:
    """What an operator wants to know.

    Attributes:
        offered: requests.
        answered: with what they asked for, in time or not.
        in_time: answered within the promise, or within the timeout where there is no promise.
        refused: by the error's code.
        expired: answered 504.
        seconds: from the first request to the last answer, or for which requests were sent.
        p50_s, p95_s, p99_s, most_s: of the latency of those answered; 0: none was.
        mean_batch: items per pass, as the average item saw it would be larger.
        batch_sizes: passes by their size.
        reasons: passes by why they were closed.
        utilisation: the share of the time in which a device computed.
    """

    offered: int
    answered: int
    in_time: int
    refused: dict[str, int]
    expired: int
    seconds: float
    p50_s: float
    p95_s: float
    p99_s: float
    most_s: float
    mean_batch: float
    batch_sizes: dict[int, int]
    reasons: dict[CloseReason, int]
    utilisation: float

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float:
        """Answers per second that came in time."""
        return self.in_time / self.seconds if self.seconds else 0.0

    @property
    def late(self) -> int:
        return self.answered - self.in_time


def summarise(run: Run, promise_s: float | None) -> Summary:
    """Return a run's numbers.

    Args:
        run: that has ended.
        promise_s: an answer after that is late; None: there is no promise.
    """
    answered = [visit for visit in run.visits if visit.outcome == ANSWERED]
    latencies = np.array([visit.latency_s for visit in answered])
    outcomes = Counter(visit.outcome for visit in run.visits if visit.outcome)
    expired = outcomes.pop(DeadlineExceeded.code, 0)
    outcomes.pop(ANSWERED, 0)
    p50_s, p95_s, p99_s, most_s = _percentiles(latencies)
    seconds = _span_s(run)
    sizes = Counter(one.size for one in run.passes)
    return Summary(
        offered=len(run.visits),
        answered=len(answered),
        in_time=sum(_is_in_time(visit, promise_s) for visit in answered),
        refused=dict(sorted(outcomes.items())),
        expired=expired,
        seconds=seconds,
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        most_s=most_s,
        mean_batch=sum(one.size for one in run.passes) / max(1, len(run.passes)),
        batch_sizes=dict(sorted(sizes.items())),
        reasons=dict(sorted(Counter(one.reason for one in run.passes).items())),
        utilisation=sum(one.seconds for one in run.passes) / (seconds * run.devices)
        if seconds
        else 0.0,
    )


def _is_in_time(visit: Visit, promise_s: float | None) -> bool:
    stated_ms = visit.ask.timeout_ms
    if stated_ms is not None:
        return visit.latency_s <= stated_ms / 1000
    return promise_s is None or visit.latency_s <= promise_s


def _percentiles(latencies: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Sequence[float]:
    if not len(latencies):
        return [0.0] * 4
    found: list[float] = np.percentile(latencies, [50, 95, 99, 100]).tolist()
    return found


def _span_s(run: Run) -> float:
    ends = [visit.done_s for visit in run.visits if visit.outcome == ANSWERED]
    return max([run.seconds, *ends])

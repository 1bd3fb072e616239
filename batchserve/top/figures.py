"""What two snapshots of the metrics say of the time between them: pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from batchserve.quantiles import quantile
from batchserve.top.scrape import Snapshot

SERVER_ERROR = "5"
UNAVAILABLE = "503"


@dataclass(frozen=True)
class Figures:
    """How one version of a model has fared between two snapshots.

    Attributes:
        requests_s: answered in a second, whatever the answer.
        failed_s: of those, 5xx other than refusals.
        refused_s: of those, not computed, by the error's code; only where there were any.
        p50_s, p99_s: from request to answer; NaN if there was none.
        slo_s: the promise; 0: none.
        batch_size: items in a forward pass, on average; NaN if there was none.
        queued: items that wait now.
        backlog_s: what computing them takes.
        busy: the share of time in which forward passes ran, of as many as can at the same time.
    """

    model: str
    version: str
    requests_s: float
    failed_s: float
    refused_s: dict[str, float]
    p50_s: float
    p99_s: float
    slo_s: float
    batch_size: float
    queued: int
    backlog_s: float
    busy: float


class Window:
    """The time between two snapshots of the same servers."""

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        self._before = before
        self._after = after
        self._seconds = max(after.taken_s - before.taken_s, 1e-9)

    @property
    def workers(self) -> int:
        return int(self._after.value("batchserve_workers"))

    def figures(self) -> list[Figures]:
        """Return those of every version that is served or has answered, by name."""
        served = {
            (labels["model"], labels["version"])
            for name, labels in self._names()
            if name in ("batchserve_queue_items", "batchserve_requests_total")
        }
        return [self._figures_of(model, version) for model, version in sorted(served)]

    def _figures_of(self, model: str, version: str) -> Figures:
        of = {"model": model, "version": version}
        codes = self._rates("batchserve_requests_total", "code", of)
        errors = sum(rate for code, rate in codes.items() if code.startswith(SERVER_ERROR))
        refused = self._rates("batchserve_rejected_total", "reason", of)
        buckets = self._buckets("batchserve_request_seconds_bucket", of)
        forward_s = self._rate("batchserve_forward_seconds_sum", of)
        at_once = self._after.value("batchserve_passes_at_once", **of)
        return Figures(
            model=model,
            version=version,
            requests_s=sum(codes.values()),
            failed_s=errors - codes.get(UNAVAILABLE, 0.0),
            refused_s={reason: rate for reason, rate in refused.items() if rate},
            p50_s=quantile(0.5, buckets),
            p99_s=quantile(0.99, buckets),
            slo_s=self._after.value("batchserve_slo_seconds", **of),
            batch_size=_ratio(
                self._rate("batchserve_batch_size_sum", of),
                self._rate("batchserve_batch_size_count", of),
            ),
            queued=int(self._after.value("batchserve_queue_items", **of)),
            backlog_s=self._after.value("batchserve_backlog_seconds", **of),
            busy=forward_s / (at_once or max(self.workers, 1)),
        )

    def _names(self) -> Iterator[tuple[str, dict[str, str]]]:
        for name, labels in self._after.series:
            yield name, dict(labels)

    def _rate(self, name: str, labels: dict[str, str]) -> float:
        now = self._after.value(name, **labels)
        grown = now - self._before.value(name, **labels)
        # A counter that has shrunk has begun anew.
        return (grown if grown >= 0 else now) / self._seconds

    def _rates(self, name: str, by: str, of: dict[str, str]) -> dict[str, float]:
        return {
            labels[by]: self._rate(name, labels)
            for found, labels in self._names()
            if found == name and of.items() <= labels.items()
        }

    def _buckets(self, name: str, of: dict[str, str]) -> list[tuple[float, float]]:
        rates = self._rates(name, "le", of)
        return sorted((float(bound), rate) for bound, rate in rates.items())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan

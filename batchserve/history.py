"""The last minutes in numbers: from what Prometheus has counted to rates, quantiles and shares.

Pure: what had been counted at two moments goes in, a point of the curves between them comes out.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from batchserve.quantiles import quantile

AT_ONCE = "batchserve_passes_at_once"
# What is read of each metric: the name that it has here, and the label that divides it.
READ = {
    "batchserve_requests_total": ("answers", "code"),
    "batchserve_rejected_total": ("refusals", "reason"),
    "batchserve_faults_total": ("faults", "kind"),
    "batchserve_batches_total": ("batches", "reason"),
    "batchserve_request_seconds_bucket": ("latency", "le"),
    "batchserve_batch_size_bucket": ("size", "le"),
    "batchserve_items_total": ("items", ""),
    "batchserve_forward_seconds_sum": ("forward_s", ""),
    "batchserve_queue_items": ("queue_items", ""),
    "batchserve_in_flight_items": ("in_flight_items", ""),
    AT_ONCE: ("at_once", ""),
}
WORKERS = "batchserve_workers"
GAUGES = ("queue_items", "in_flight_items")
# Models that are served side by side share the cores.
LARGEST = ("at_once",)
RATES = ("answers", "refusals", "faults", "batches")
DIGITS = 4

# What was counted, by what it is and by the label that divides it.
Counts = dict[tuple[str, str], float]
Point = dict[str, Any]


class Reading(Protocol):
    """A value of a metric, as prometheus_client reads it."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def value(self) -> float: ...


class Snapshot(NamedTuple):
    """What had been counted up to a moment, by all workers.

    Attributes:
        at_s: seconds since 1970.
        workers: who counted.
        models: by `name:version`.
    """

    at_s: float
    workers: int
    models: dict[str, Counts]


def snapshot(readings: Iterable[Reading], at_s: float) -> Snapshot:
    """Sort what Prometheus has counted by model."""
    models: dict[str, Counts] = {}
    workers = 0
    for reading in readings:
        if reading.name == WORKERS:
            workers = round(reading.value)
        if reading.name not in READ:
            continue
        kind, label = READ[reading.name]
        model = f"{reading.labels['model']}:{reading.labels['version']}"
        key = (kind, reading.labels.get(label, ""))
        counts = models.setdefault(model, {})
        counts[key] = counts.get(key, 0) + reading.value
    return Snapshot(at_s, workers, models)


def point(before: Snapshot, after: Snapshot) -> Point:
    """Return what happened between two moments, for each model and, of several, for all of them.

    What is 0 or cannot be told is left out. `docs/dashboard.md` explains each number.
    """
    seconds = after.at_s - before.at_s
    grown = {
        model: _grown(before.models.get(model, {}), counts)
        for model, counts in after.models.items()
    }
    described: Point = {
        "at": round(after.at_s, 3),
        "seconds": round(seconds, 3),
        "workers": after.workers,
        "models": {
            model: _describe(counts, seconds, after.workers) for model, counts in grown.items()
        },
    }
    if len(grown) > 1:
        described["all"] = _describe(_together(grown.values()), seconds, after.workers)
    return described


def _grown(before: Counts, after: Counts) -> Counts:
    """Return what was added; a counter that has shrunk has begun anew."""
    grown = {}
    for key, value in after.items():
        earlier = 0 if key[0] in (*GAUGES, *LARGEST) else before.get(key, 0)
        grown[key] = value - earlier if value >= earlier else value
    return grown


def _together(parts: Iterable[Counts]) -> Counts:
    total: Counts = {}
    for counts in parts:
        for key, value in counts.items():
            before = total.get(key, 0)
            total[key] = max(before, value) if key[0] in LARGEST else before + value
    return total


def _describe(counts: Counts, seconds: float, workers: int) -> Point:
    latency = _buckets(counts, "latency")
    at_once = counts.get(("at_once", ""), 0) or max(1, workers)
    described: Point = {
        "items_per_s": _rounded(counts.get(("items", ""), 0) / seconds),
        "busy_share": _rounded(counts.get(("forward_s", ""), 0) / seconds / at_once),
        "p50_ms": _millis(quantile(0.5, latency)),
        "p99_ms": _millis(quantile(0.99, latency)),
        "batch_sizes": _sizes(_buckets(counts, "size")),
    }
    for kind in GAUGES:
        described[kind] = round(counts.get((kind, ""), 0))
    for kind in RATES:
        described[f"{kind}_per_s"] = {
            label: _rounded(count / seconds)
            for (its_kind, label), count in sorted(counts.items())
            if its_kind == kind and count
        }
    return {name: value for name, value in described.items() if value}


def _buckets(counts: Counts, kind: str) -> list[tuple[float, float]]:
    return sorted((float(label), n) for (its_kind, label), n in counts.items() if its_kind == kind)


def _sizes(cumulative: Iterable[tuple[float, float]]) -> dict[str, int]:
    """Return how many batches were in each bucket, by its upper bound."""
    sizes, below = {}, 0.0
    for bound, upto in cumulative:
        if count := round(upto - below):
            sizes["more" if math.isinf(bound) else f"{bound:g}"] = count
        below = upto
    return sizes


def _millis(seconds: float) -> float | None:
    return None if math.isnan(seconds) else _rounded(1000 * seconds)


def _rounded(value: float) -> float:
    return round(value, DIGITS)

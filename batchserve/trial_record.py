"""How a candidate has fared beside the current version, as the metrics have counted: pure."""

import math
from collections.abc import Iterable
from typing import Any

from batchserve.history import Reading
from batchserve.quantiles import quantile

# Of copies is counted what came of them, how alike the rows were, and what whose passes took.
COMPARED = "compared"
AGREE, DISAGREE, UNRANKED, UNLIKE = "agree", "disagree", "unranked", "unlike"
CURRENT, CANDIDATE = "current", "candidate"
SERVER_ERROR = "5"
DIGITS = 4


def trial_record(
    readings: Iterable[Reading], model: str, current: str, candidate: str
) -> dict[str, Any]:
    """Return what was counted of both since the server began.

    `docs/models-at-run-time.md` explains each number.

    Args:
        readings: of all workers.
        model: its name.
        current: the version that answers where none is named.
        candidate: the one that is tried beside it.
    """
    counted = Counted([found for found in readings if found.labels.get("model") == model])
    of = {"version": candidate}
    fallbacks = counted.by("reason", "canary_fallbacks_total", **of)
    return {
        "canary": {
            CURRENT: _answers(counted, current),
            CANDIDATE: {**_answers(counted, candidate), "fallbacks": _whole(fallbacks)},
        },
        "comparison": _comparison(counted, {**of, "current": current}),
    }


class Counted:
    """Values of metrics."""

    def __init__(self, readings: list[Reading]) -> None:
        self._readings = readings

    def by(self, label: str, name: str, **of: str) -> dict[str, float]:
        """Return a metric's values by one label, where the others are these."""
        found: dict[str, float] = {}
        for reading in self._readings:
            if reading.name == f"batchserve_{name}" and of.items() <= reading.labels.items():
                key = reading.labels.get(label, "")
                found[key] = found.get(key, 0) + reading.value
        return found

    def sum(self, name: str, **of: str) -> float:
        return sum(self.by("", name, **of).values())


def _answers(counted: Counted, version: str) -> dict[str, Any]:
    codes = counted.by("code", "requests_total", version=version)
    by_bound = counted.by("le", "request_seconds_bucket", version=version)
    buckets = sorted((float(bound), count) for bound, count in by_bound.items())
    failed = sum(count for code, count in codes.items() if code.startswith(SERVER_ERROR))
    return {
        "requests": round(sum(codes.values())),
        "errors": round(failed),
        "p50_ms": _millis(quantile(0.5, buckets)),
        "p99_ms": _millis(quantile(0.99, buckets)),
    }


def _comparison(counted: Counted, of: dict[str, str]) -> dict[str, Any]:
    outcomes = counted.by("outcome", "shadow_requests_total", **of)
    kinds = counted.by("likeness", "shadow_items_total", **of)
    agreed, ranked = kinds.get(AGREE, 0), kinds.get(AGREE, 0) + kinds.get(DISAGREE, 0)
    alike = ranked + kinds.get(UNRANKED, 0)
    return {
        "compared": round(alike),
        "unlike": round(kinds.get(UNLIKE, 0)),
        "failed": _whole({code: n for code, n in outcomes.items() if code != COMPARED}),
        "agreement": _ratio(agreed, ranked),
        "mean_difference": _ratio(counted.sum("shadow_difference_sum", **of), alike),
        "max_difference": counted.sum("shadow_max_difference", **of) if alike else None,
        "forward_ms": {whose: _forward_ms(counted, whose, of) for whose in (CURRENT, CANDIDATE)},
    }


def _forward_ms(counted: Counted, whose: str, of: dict[str, str]) -> float | None:
    of = {**of, "whose": whose}
    seconds = counted.sum("shadow_forward_seconds_sum", **of)
    mean_s = _ratio(seconds, counted.sum("shadow_forward_seconds_count", **of))
    return None if mean_s is None else _millis(mean_s)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _millis(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(1000 * seconds, DIGITS)


def _whole(counts: dict[str, float]) -> dict[str, int]:
    return {name: round(count) for name, count in sorted(counts.items()) if count}

"""What was counted of a candidate and of the current version, in numbers."""

from batchserve.metrics import Metrics
from batchserve.trial_record import trial_record

PAIR = ("m", "2", "1")


def record(metrics: Metrics, current: str = "1", candidate: str = "2"):
    return trial_record(metrics.readings(), "m", current, candidate)


def test_before_anything_has_happened_nothing_is_claimed():
    found = record(Metrics())
    nothing = {"requests": 0, "errors": 0, "p50_ms": None, "p99_ms": None}
    assert found["canary"] == {"current": nothing, "candidate": {**nothing, "fallbacks": {}}}
    assert found["comparison"] == {
        "compared": 0,
        "unlike": 0,
        "failed": {},
        "agreement": None,
        "mean_difference": None,
        "max_difference": None,
        "forward_ms": {"current": None, "candidate": None},
    }


def test_requests_errors_and_latency_are_those_of_each():
    metrics = Metrics()
    for _ in range(99):
        metrics.on_answer("m", "1", 200, 0.002)
    metrics.on_answer("m", "1", 422, 0.002)
    for code in (200, 500, 503):
        metrics.on_answer("m", "2", code, 0.02)
    metrics.on_answer("m", "3", 200, 9.0)
    metrics.on_answer("other", "2", 500, 9.0)
    metrics.fallbacks.labels("m", "2", "queue_full").inc(4)
    found = record(metrics)["canary"]
    current, candidate = found["current"], found["candidate"]
    assert (current["requests"], current["errors"]) == (100, 0)
    assert 1 < current["p50_ms"] < current["p99_ms"] <= 2.5
    assert (candidate["requests"], candidate["errors"]) == (3, 2)
    assert 10 < candidate["p50_ms"] < candidate["p99_ms"] <= 25
    assert candidate["fallbacks"] == {"queue_full": 4}


def test_comparisons_are_those_of_this_pair():
    metrics = Metrics()
    for kind, difference in (("agree", 0.5), ("agree", 0.0), ("disagree", 4.0), ("unranked", 0.5)):
        metrics.on_likeness(PAIR, kind, difference)
    metrics.on_likeness(PAIR, "unlike", None)
    metrics.on_likeness(("m", "2", "7"), "disagree", 99.0)
    for outcome in ("compared", "compared", "model_failed"):
        metrics.shadow_requests.labels(*PAIR, outcome).inc()
    for whose, seconds in (("current", 0.01), ("current", 0.03), ("candidate", 0.04)):
        metrics.shadow_forward_seconds.labels(*PAIR, whose).observe(seconds)
    assert record(metrics)["comparison"] == {
        "compared": 4,
        "unlike": 1,
        "failed": {"model_failed": 1},
        "agreement": 2 / 3,
        "mean_difference": 1.25,
        "max_difference": 4.0,
        "forward_ms": {"current": 20.0, "candidate": 40.0},
    }

"""From what Prometheus has counted at two moments to a point of the dashboard's curves."""

from typing import Any

from batchserve.history import Snapshot, point, snapshot
from batchserve.metrics import Metrics


def used(metrics: Metrics, model: str = "m", *, requests: int = 0, code: int = 200) -> Metrics:
    for _ in range(requests):
        metrics.on_answer(model, "1", code, 0.3)
    return metrics


def between(before: Metrics, change: Any, seconds: float = 2.0, workers: int = 1) -> Any:
    before.serving.set(workers)
    first = snapshot(before.readings(), 100.0)
    change(before)
    return point(first, snapshot(before.readings(), 100.0 + seconds))


def test_a_point_counts_only_what_happened_since_the_one_before():
    metrics = used(Metrics(), requests=5)
    found = between(metrics, lambda m: used(m, requests=3))
    assert (found["at"], found["seconds"], found["workers"]) == (102.0, 2.0, 1)
    assert found["models"]["m:1"]["answers_per_s"] == {"200": 1.5}


def test_answers_are_told_apart_by_their_status_and_refusals_by_their_reason():
    def change(metrics: Metrics) -> None:
        used(metrics, requests=4)
        used(metrics, requests=2, code=503)
        metrics.rejected.labels("m", "1", "queue_full").inc(2)

    told = between(Metrics(), change)["models"]["m:1"]
    assert told["answers_per_s"] == {"200": 2.0, "503": 1.0}
    assert told["refusals_per_s"] == {"queue_full": 1.0}


def test_a_model_is_described_by_what_its_batches_did():
    def change(metrics: Metrics) -> None:
        metrics.items.labels("m", "1").inc(10)
        for size, reason in ((8, "full"), (2, "idle")):
            metrics.batch_size.labels("m", "1").observe(size)
            metrics.batches.labels("m", "1", reason).inc()
            metrics.forward_seconds.labels("m", "1").observe(0.5)
        metrics.sample("m", "1", queued=3, in_flight=2, backlog_s=1, at_once=0)

    told = between(Metrics(), change, workers=2)["models"]["m:1"]
    assert told["items_per_s"] == 5
    assert told["batch_sizes"] == {"8": 1, "2": 1}
    assert told["batches_per_s"] == {"full": 0.5, "idle": 0.5}
    # One second of forward passes in two seconds of two workers.
    assert told["busy_share"] == 0.25
    assert (told["queue_items"], told["in_flight_items"]) == (3, 2)


def test_the_device_is_busy_if_as_many_passes_run_as_can():
    def change(metrics: Metrics) -> None:
        for model, at_once in (("a", 4), ("b", 2)):
            metrics.forward_seconds.labels(model, "1").observe(2.0)
            metrics.sample(model, "1", queued=0, in_flight=1, backlog_s=0, at_once=at_once)

    found = between(Metrics(), change, workers=2)
    # Two seconds in two seconds: one pass at a time.
    assert [found["models"][name]["busy_share"] for name in ("a:1", "b:1")] == [0.25, 0.5]
    # They share the cores.
    assert found["all"]["busy_share"] == 0.5


def test_what_is_zero_is_left_out():
    found = between(used(Metrics(), requests=1), lambda _metrics: None)
    assert found["models"] == {"m:1": {}}


def test_several_models_are_also_added_up():
    def change(metrics: Metrics) -> None:
        used(metrics, "a", requests=2)
        used(metrics, "b", requests=4)
        metrics.sample("a", "1", queued=1, in_flight=0, backlog_s=0, at_once=1)
        metrics.sample("b", "1", queued=2, in_flight=0, backlog_s=0, at_once=1)

    found = between(Metrics(), change)
    assert found["all"]["answers_per_s"] == {"200": 3.0}
    assert found["all"]["queue_items"] == 3
    assert "all" not in between(Metrics(), lambda m: used(m, requests=1))


def test_a_model_that_was_not_there_before_is_counted_from_zero():
    found = between(used(Metrics(), "a", requests=1), lambda m: used(m, "b", requests=2))
    assert found["models"]["b:1"]["answers_per_s"] == {"200": 1.0}


def test_a_counter_that_began_anew_is_counted_from_zero():
    before = snapshot(used(Metrics(), requests=9).readings(), 1.0)
    after = snapshot(used(Metrics(), requests=2).readings(), 2.0)
    assert point(before, after)["models"]["m:1"]["answers_per_s"] == {"200": 2.0}


def test_the_latencies_of_a_point_are_those_of_its_own_requests():
    metrics = Metrics()
    for _ in range(100):
        metrics.on_answer("m", "1", 200, 20)

    def change(metrics: Metrics) -> None:
        for seconds in [0.3] * 98 + [0.7] * 2:
            metrics.on_answer("m", "1", 200, seconds)

    told = between(metrics, change)["models"]["m:1"]
    # Within the buckets from 250 to 500 ms, and from 500 ms to 1 s.
    assert 250 < told["p50_ms"] < 500
    assert 500 < told["p99_ms"] < 1000


def test_batches_larger_than_every_bucket_are_told_as_more():
    told = between(Metrics(), lambda m: m.batch_size.labels("m", "1").observe(5000))
    assert told["models"]["m:1"]["batch_sizes"] == {"more": 1}


def test_a_snapshot_of_nothing_makes_an_empty_point():
    assert point(Snapshot(1, 1, {}), Snapshot(3, 1, {}))["models"] == {}

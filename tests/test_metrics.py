"""The metrics of one process; several are added up in the end-to-end tests."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from batchserve.batch import Batch, CloseReason, Fault, Item, Terms
from batchserve.metrics import GATHERED, BulkHistogram, Metrics

LABELS = {"model": "m", "version": "1"}


def samples(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(f" {v}" for k, v in sorted(sample.labels.items()) if k not in LABELS):
        sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }  # fmt: skip


def test_a_batch_is_counted():
    metrics = Metrics()
    no_future: Any = None
    items = [
        Item(torch.zeros(1), "key", "request", Terms(9.0, 9.0), queued_s, no_future)
        for queued_s in (1.0, 1.5)
    ]
    metrics.on_batch("m", "1", Batch(items, CloseReason.IDLE, formed_s=2.0, forward_s=0.25))
    found = samples(metrics)
    assert found["batchserve_items_total"] == 2
    assert found["batchserve_batches_total idle"] == 1
    assert found["batchserve_batch_size_sum"] == 2
    assert found["batchserve_batch_size_count"] == 1
    assert found["batchserve_forward_seconds_sum"] == 0.25
    assert found["batchserve_queue_seconds_sum"] == 1.5
    assert found["batchserve_queue_seconds_count"] == 2


def test_an_answer_is_counted_by_its_status():
    metrics = Metrics()
    metrics.on_answer("m", "1", 200, 0.5)
    metrics.on_answer("m", "1", 503, 0.1)
    found = samples(metrics)
    assert found["batchserve_requests_total 200"] == 1
    assert found["batchserve_requests_total 503"] == 1
    assert found["batchserve_request_seconds_sum"] == 0.6


def test_gauges_are_sampled():
    metrics = Metrics()
    metrics.sample("m", "1", queued=3, in_flight=2, backlog_s=0.25, at_once=4)
    found = samples(metrics)
    assert (found["batchserve_queue_items"], found["batchserve_in_flight_items"]) == (3, 2)
    assert found["batchserve_backlog_seconds"] == 0.25
    assert found["batchserve_passes_at_once"] == 4


def test_faults_are_counted_by_their_kind():
    metrics = Metrics()
    for fault in (Fault.INPUT, Fault.HUNG, Fault.INPUT):
        metrics.on_fault("m", "1", fault)
    found = samples(metrics)
    assert found["batchserve_faults_total input"] == 2
    assert found["batchserve_faults_total hung"] == 1


def test_series_begin_at_zero_so_that_rates_see_the_first_event():
    metrics = Metrics()
    metrics.introduce("m", "1", slo_ms=250)
    found = samples(metrics)
    assert {found[f"batchserve_faults_total {fault}"] for fault in Fault} == {0}
    assert found["batchserve_rejected_total overloaded"] == 0
    assert found["batchserve_slo_seconds"] == 0.25
    metrics.on_fault("m", "1", Fault.HUNG)
    metrics.introduce("m", "1", slo_ms=250)
    assert samples(metrics)["batchserve_faults_total hung"] == 1


def test_a_model_without_a_promise_has_none():
    metrics = Metrics()
    metrics.introduce("m", "1", slo_ms=None)
    assert "batchserve_slo_seconds" not in samples(metrics)


def test_each_process_counts_for_itself():
    one, other = Metrics(), Metrics()
    one.on_answer("m", "1", 200, 0.5)
    assert "batchserve_requests_total 200" not in samples(other)


# What is gathered is counted as if it had been counted one by one.

BUCKETS = (0.001, 0.01, 0.1, 1.0)


def histogram(kind: type[Histogram], name: str = "seconds") -> tuple[CollectorRegistry, Any]:
    registry = CollectorRegistry()
    return registry, kind(name, "…", ("model",), registry=registry, buckets=BUCKETS).labels("m")


@given(
    st.lists(
        st.one_of(st.floats(0, 2), st.sampled_from([0.0, *BUCKETS, 5e-324, 1e300])), min_size=1
    )
)
def test_many_values_at_once_are_observed_as_each_alone(values):
    (all_at_once, bulk), (one_by_one, single) = histogram(BulkHistogram), histogram(Histogram)
    bulk.observe_all(values)
    for value in values:
        single.observe(value)
    found, expected = [
        {
            (sample.name, sample.labels.get("le")): sample.value
            for family in registry.collect()
            for sample in family.samples
        }
        for registry in (all_at_once, one_by_one)
    ]
    assert found == pytest.approx(expected)


def test_what_is_gathered_is_counted_before_it_is_much():
    metrics = Metrics()
    for _ in range(2 * GATHERED):
        metrics.on_answer("m", "1", 200, 0.5)
        assert len(metrics._answered) < GATHERED


def test_versions_and_codes_are_counted_apart():
    metrics = Metrics()
    for version, code, decode_s in [("1", 200, 0.5), ("2", 200, 0.25), ("1", 503, None)]:
        metrics.on_answer("m", version, code, 1.0, decode_s)
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for sample in metrics.readings()
    }
    assert found["batchserve_requests_total", "1", "200", "m"] == 1
    assert found["batchserve_requests_total", "2", "200", "m"] == 1
    assert found["batchserve_requests_total", "1", "503", "m"] == 1
    assert found["batchserve_request_seconds_count", "1", "m"] == 2
    assert found["batchserve_decode_seconds_count", "1", "m"] == 1
    assert found["batchserve_decode_seconds_sum", "2", "m"] == 0.25


def test_threads_that_ask_meanwhile_have_nothing_counted_twice_or_lost():
    metrics, count = Metrics(), 20_000
    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(metrics.count) for _ in range(1000)]
        for _ in range(count):
            metrics.on_answer("m", "1", 200, 0.5, 0.5)
        for one in asking:
            one.result()
    found = samples(metrics)
    assert found["batchserve_requests_total 200"] == count
    assert found["batchserve_request_seconds_count"] == count
    assert found["batchserve_decode_seconds_sum"] == count / 2


def test_who_answers_does_not_wait_for_a_thread_that_counts():
    metrics = Metrics()
    with metrics._counting:
        for _ in range(2 * GATHERED):
            metrics.on_answer("m", "1", 200, 0.5)
    assert samples(metrics)["batchserve_requests_total 200"] == 2 * GATHERED

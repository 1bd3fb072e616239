"""The metrics of one process; several are added up in the end-to-end tests."""

from typing import Any

import torch
from prometheus_client.parser import text_string_to_metric_families

from batchserve.batch import Batch, CloseReason, Fault, Item, Terms
from batchserve.metrics import Metrics

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
    metrics.sample("m", "1", queued=3, in_flight=2, backlog_s=0.25)
    found = samples(metrics)
    assert (found["batchserve_queue_items"], found["batchserve_in_flight_items"]) == (3, 2)
    assert found["batchserve_backlog_seconds"] == 0.25


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

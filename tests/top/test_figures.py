"""What two looks at the metrics say: of a real server's text, and of made-up counters."""

import math
from pathlib import Path

import pytest

from batchserve.top.figures import Window
from batchserve.top.scrape import Snapshot, merge, read

RECORDED = Path(__file__).parent / "recorded"
OF = {"model": "m", "version": "1"}


def recorded(name: str, taken_s: float) -> Snapshot:
    """Return the metrics of a server with two workers while wrk asked it."""
    return read((RECORDED / f"{name}.txt").read_text(encoding="utf-8"), taken_s)


def snapshot(taken_s: float, requests: float, **other: float) -> Snapshot:
    series = {("batchserve_requests_total", tuple(sorted({**OF, "code": "200"}.items()))): requests}
    for name, value in other.items():
        series[f"batchserve_{name}", tuple(sorted(OF.items()))] = value
    return Snapshot(taken_s, series)


def test_a_recorded_server():
    window = Window(recorded("before", 0.0), recorded("after", 2.0))
    assert window.workers == 2
    double, tiny = window.figures()
    assert (double.model, double.requests_s, double.busy) == ("double", 0, 0)
    assert math.isnan(double.p99_s)
    assert math.isnan(double.batch_size)
    assert tiny.requests_s == (5421 + 4 - 1105) / 2
    assert tiny.refused_s == {"overloaded": 2}
    assert tiny.failed_s == 0
    assert tiny.batch_size == pytest.approx((5422 - 1105) / (1389 - 279))
    assert tiny.busy == pytest.approx((0.946472 - 0.102620) / 2 / 2, rel=1e-4)
    assert (tiny.queued, tiny.slo_s) == (3, 0.05)
    assert 0.001 < tiny.p50_s < 0.0025
    assert 0.05 < tiny.p99_s < 0.1


def test_a_counter_that_began_anew_counts_from_there():
    (figures,) = Window(snapshot(0.0, 1000), snapshot(2.0, 30)).figures()
    assert figures.requests_s == 15


def test_a_series_that_was_not_there_before_counts_from_zero():
    (figures,) = Window(Snapshot(0.0), snapshot(2.0, 30)).figures()
    assert figures.requests_s == 15


def test_several_servers_add_up_but_for_the_backlog():
    one = snapshot(0.0, 10, queue_items=3, backlog_seconds=0.5)
    other = snapshot(0.1, 20, queue_items=4, backlog_seconds=0.2)
    both = merge([one, other])
    assert both.value("batchserve_requests_total", code="200", **OF) == 30
    assert both.value("batchserve_queue_items", **OF) == 7
    assert both.value("batchserve_backlog_seconds", **OF) == 0.5

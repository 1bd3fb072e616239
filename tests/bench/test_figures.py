"""From what was noted to what is shown."""

import math
from typing import Any

import pytest

from batchserve.bench.advice import advice_on
from batchserve.bench.figures import Figures, durations, figures_of, knee_of, points_of
from batchserve.bench.report import line_of, milliseconds, outcomes_of
from batchserve.bench.stage import Stage, closed
from batchserve.bench.tally import Tally

STAGE = Stage("x", seconds=2, warm_up_s=1, rate=3)


def tally(*requests: tuple[float, float, str], batch_size: int = 0, timing: bytes = b"") -> Tally:
    """Return one of requests that were sent when they were meant to be."""
    made = Tally()
    for meant_s, done_s, name in requests:
        made.note(meant_s, meant_s, done_s, name, batch_size, timing)
    return made


def figures(**changes: Any) -> Figures:
    made = figures_of(STAGE, [tally((1.0, 1.5, "200"))])
    return Figures(**{**vars(made), **changes})


def test_what_was_sent_in_the_warm_up_is_no_latency_but_throughput():
    found = figures_of(
        STAGE,
        [
            tally((0.5, 1.9, "200"), (0.9, 0.95, "200"), (1.0, 1.2, "200")),
            tally((2.0, 2.4, "200"), (2.9, 3.6, "200"), (2.5, 2.6, "503 overloaded")),
        ],
        slo_s=0.3,
    )
    assert found.offered == 2  # four in two seconds
    assert found.answered == 1.5  # three came within them
    assert found.goodput == 0.5
    assert found.p50_s == pytest.approx(0.4)
    assert found.max_s == pytest.approx(0.7)
    assert found.outcomes == {"200": 3, "503 overloaded": 1}
    assert found.failures == {"503 overloaded": 1}


def test_names_of_outcomes_are_those_of_their_process():
    found = figures_of(STAGE, [tally((1, 2, "200")), tally((1, 2, "timeout"), (1, 2, "200"))])
    assert found.outcomes == {"200": 2, "timeout": 1}


def test_nothing_is_answered():
    found = figures_of(STAGE, [Tally()], slo_s=1)
    assert (found.offered, found.answered, found.goodput) == (0, 0, 0)
    assert math.isnan(found.p99_s)
    assert math.isnan(found.batch_size)
    assert "p99 - ms" in line_of(found)
    assert len(points_of(STAGE, [Tally()])[0]) == 0


def test_a_stage_that_was_cut_short_has_fewer_seconds():
    found = figures_of(STAGE, [tally((1.1, 1.2, "200"), (1.3, 1.4, "200"))], until_s=1.5)
    assert found.seconds == 0.5
    assert found.answered == 4


def test_the_mean_batch_is_that_of_passes_not_of_items():
    alone = tally((1, 2, "200"), batch_size=1)
    four = tally(*[(1, 2, "200")] * 4, batch_size=4)
    assert figures_of(STAGE, [alone, four]).batch_size == pytest.approx(2.5)


def test_server_timing_says_where_the_time_went():
    told = tally(*[(1.0, 1.1, "200")] * 3, timing=b"decode;dur=10, queue;dur=20, forward;dur=30.5")
    found = figures_of(STAGE, [told])
    assert found.parts_s == {"decode": 0.01, "queue": 0.02, "forward": 0.0305}
    assert found.rest_s == pytest.approx(0.0395)


@pytest.mark.parametrize(
    ("timing", "parts"),
    [
        (b"", {}),
        (b"miss, cache;desc=hit", {}),
        (b'db;desc="the database";dur=2.5', {"db": 0.0025}),
        (b"cache, db;dur=1,app; dur=4", {"db": 0.001, "app": 0.004}),
    ],
)
def test_other_servers_timings_are_read(timing: bytes, parts: dict[str, float]):
    assert durations(timing) == pytest.approx(parts)


def test_many_points_are_thinned_out():
    many = tally(*[(1 + n / 1e5, 2 + n / 1e5, "200") for n in range(100_000)])
    moments_s, latencies_s = points_of(STAGE, [many])
    assert 2000 < len(moments_s) == len(latencies_s) <= 4000
    assert moments_s[0] == 0


def test_the_knee_is_where_more_clients_get_no_more():
    loads = [(1, 100.0), (4, 350.0), (16, 950.0), (64, 1000.0)]
    found = [figures(name=f"{n} clients", clients=n, answered=rate) for n, rate in loads]
    knee = knee_of([*reversed(found), figures(rate=5.0, clients=0, answered=9e9)])
    assert knee is not None
    assert knee.clients == 16
    assert knee_of(found[:1]) is None
    assert knee_of([]) is None
    assert knee_of([figures(clients=n, answered=0.0) for n in (1, 2)]) is None


def test_advice_where_something_is_off():
    lines = [
        *advice_on([figures(name="busy", busy=0.97)]),
        *advice_on([figures(name="late", rate=100.0, lag_p99_s=0.06)]),
        *advice_on([figures(name="few", waited=7)]),
        *advice_on([figures(outcomes={"200": 5, "503 queue_full": 2, "500": 1})] * 2),
    ]
    for line, part in zip(
        lines,
        [
            "busy: the generator could not keep up",
            "late: requests were sent 60.0 ms late",
            "few: 7 requests waited for a free connection",
            "503 queue_full: the queue was full",
            "500: the server failed",
        ],
        strict=True,
    ):
        assert part in line


def test_no_advice_where_nothing_is():
    assert not [*advice_on([figures()])]
    # Late, but what is that to an answer that takes a second? And clients are never late.
    assert not [*advice_on([figures(rate=9.0, lag_p99_s=0.006, p50_s=1.0)])]
    assert not [*advice_on([figures(rate=0.0, clients=4, lag_p99_s=0.5)])]


def test_lines_of_text():
    found = figures_of(closed(2, 1, 0), [tally((0, 0.01234, "200"), (0, 0.5, "504 slow"))], 1)
    assert outcomes_of(found) == "2 clients: 1 × 200, 1 × 504 slow"
    assert line_of(found) == "2 clients: 1.0 answers/s, p50 12.3 ms, p99 12.3 ms, 1 failed"
    assert [milliseconds(s) for s in (1.23456, 0.0456, math.nan)] == ["1235", "45.6", "-"]

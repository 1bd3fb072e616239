"""The table that `batchserve top` draws."""

import math

from rich.console import Console

from batchserve.top.figures import Figures
from batchserve.top.view import View, sparkline

QUIET = Figures(
    model="resnet", version="2", requests_s=0.0, failed_s=0.0, refused_s={}, p50_s=math.nan,
    p99_s=math.nan, slo_s=0.0, batch_size=math.nan, queued=0, backlog_s=0.0, busy=0.0,
)  # fmt: skip
LOADED = Figures(
    model="resnet", version="2", requests_s=123.4, failed_s=0.5, refused_s={"overloaded": 7.25},
    p50_s=0.0123, p99_s=0.321, slo_s=0.25, batch_size=7.94, queued=31, backlog_s=0.2, busy=0.97,
)  # fmt: skip


def drawn(view: View, *figures: Figures) -> str:
    console = Console(width=150)
    with console.capture() as captured:
        console.print(view.draw(list(figures), workers=2))
    return captured.get()


def test_a_loaded_model_shows_all_its_figures():
    text = drawn(View(["http://a:1", "http://b:1"]), LOADED)
    assert "http://a:1, http://b:1: 2 workers" in text
    for shown in ("resnet:2", "123.4", "12.3 ms", "321 ms of 250 ms", "7.9", "31", "200 ms",
                  "97 %", "7.2 overloaded", "0.5"):  # fmt: skip
        assert shown in text


def test_a_quiet_model_shows_dashes_for_what_there_is_none_of():
    row = drawn(View(["a"]), QUIET).splitlines()[-1].split()
    assert row == ["resnet:2", "0.0", "▁", "-", "-", "-", "0", "0", "ms", "0", "%", "-", "-"]


def test_the_rates_of_the_past_are_bars():
    view = View(["a"])
    for _ in range(3):
        drawn(view, QUIET)
    assert "▁▁▁█" in drawn(view, LOADED)


def test_a_sparkline_spans_from_nothing_to_the_largest():
    assert sparkline([0, 1, 2, 4, 7]) == "▁▂▃▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""

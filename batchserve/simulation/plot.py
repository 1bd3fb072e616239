"""A picture of a run: how long answers took, and what queue and batches did meanwhile."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchserve.plotting import name_axes, new_figure, save
from batchserve.simulation.report import Outcome
from batchserve.simulation.visit import ANSWERED

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(path: Path, outcomes: Sequence[Outcome], promise_s: float | None) -> None:
    """Draw the latencies' distribution, and the queue and the batches over time.

    Raises:
        ConfigError: the file cannot be written.
    """
    figure = new_figure(height=9)
    latencies, queue, sizes = figure.subplots(3)
    for outcome in outcomes:
        _draw_latencies(latencies, outcome)
        _draw_passes(queue, sizes, outcome)
    if promise_s is not None:
        latencies.axvline(1000 * promise_s, color="grey", linestyle="--", label="promise")
    name_axes(latencies, "latency, ms", "share of answers")
    latencies.set_xscale("log")
    latencies.legend()
    name_axes(queue, "time, s", "items left waiting")
    name_axes(sizes, "time, s", "batch size")
    save(figure, path)


def _draw_latencies(axes: "Axes", outcome: Outcome) -> None:
    visits = outcome.run.visits
    taken_ms = sorted(1000 * visit.latency_s for visit in visits if visit.outcome == ANSWERED)
    shares = [(rank + 1) / len(taken_ms) for rank in range(len(taken_ms))]
    axes.plot(taken_ms, shares, label=outcome.policy)


def _draw_passes(queue: "Axes", sizes: "Axes", outcome: Outcome) -> None:
    passes = outcome.run.passes
    ends_s = [one.formed_s + one.seconds for one in passes]
    queue.plot(ends_s, [one.queued for one in passes], linewidth=0.8)
    sizes.plot([one.formed_s for one in passes], [one.size for one in passes], ".", markersize=2)

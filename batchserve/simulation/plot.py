"""A picture of a run: how long answers took, and what queue and batches did meanwhile."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchserve.errors import ConfigError
from batchserve.simulation.report import Outcome
from batchserve.simulation.visit import ANSWERED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png", ".pdf")
# The same run gives the same SVG, to the byte, with text that can be read and searched.
SVG: dict[Any, Any] = {"svg.hashsalt": "batchserve", "svg.fonttype": "none"}


def check_plot(path: Path) -> None:
    """Raise if nothing could be drawn into this file, before the work is done.

    Raises:
        ConfigError: matplotlib is missing, or the file's ending means nothing.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot {path}: the ending must be one of {', '.join(FORMATS)}")
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to load
    except ImportError:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: pip install 'batchserve[plot]'"
        ) from None
    mpl.use("agg")


def draw(path: Path, outcomes: Sequence[Outcome], promise_s: float | None) -> None:
    """Draw the latencies' distribution, and the queue and the batches over time.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - optional, and slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415 - likewise

    figure = Figure(figsize=(9, 9), layout="constrained")
    latencies, queue, sizes = figure.subplots(3)
    for outcome in outcomes:
        _draw_latencies(latencies, outcome)
        _draw_passes(queue, sizes, outcome)
    if promise_s is not None:
        latencies.axvline(1000 * promise_s, color="grey", linestyle="--", label="promise")
    _name(latencies, "latency, ms", "share of answers")
    latencies.set_xscale("log")
    latencies.legend()
    _name(queue, "time, s", "items left waiting")
    _name(sizes, "time, s", "batch size")
    undated = {"Date": None} if path.suffix.lower() == ".svg" else {}
    try:
        with rc_context(SVG):
            figure.savefig(path, metadata=undated)
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}; name another file") from None


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


def _name(axes: "Axes", along: str, up: str) -> None:
    axes.set_xlabel(along)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)

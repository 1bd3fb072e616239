"""A picture: latency against throughput, and latency over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchserve.bench.figures import Figures
from batchserve.bench.report import Result
from batchserve.plotting import name_axes, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENTILES = ("p50_s", "p90_s", "p99_s")


def draw(path: Path, title: str, results: Sequence[Result], slo_s: float | None) -> None:
    """Draw percentiles of the latency against the throughput, and each answer over time.

    Raises:
        ConfigError: the file cannot be written.
    """
    figure = new_figure(height=8)
    figure.suptitle(title, fontsize="medium")
    against, over_time = figure.subplots(2)
    all_figures = [result.figures for result in results]
    _draw_percentiles(against, [one for one in all_figures if one.clients], "o-")
    _draw_percentiles(against, [one for one in all_figures if not one.clients], "s--")
    _draw_answers(over_time, results)
    for axes in (against, over_time):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(_few_digits)
        if slo_s is not None:
            axes.axhline(1000 * slo_s, color="grey", linestyle=":", label="SLO")
        axes.legend(fontsize="small")
    offered = "answers/s (clients that wait), or requests/s offered (open loop)"
    name_axes(against, offered, "latency, ms")
    name_axes(over_time, "seconds, one load after the other", "latency, ms")
    save(figure, path)


def _few_digits(ms: float, _: int | None) -> str:
    """Name two and five beside the powers of ten."""
    return f"{ms:g}" if f"{ms:e}"[0] in "25" else ""


def _draw_percentiles(axes: "Axes", all_figures: Sequence[Figures], style: str) -> None:
    shown = sorted(all_figures, key=lambda one: (one.clients, one.rate))
    loads = [one.answered if one.clients else one.offered for one in shown]
    if not shown:
        return
    kind = "clients" if shown[0].clients else "open loop"
    for place, name in enumerate(PERCENTILES):
        ms = [1000 * getattr(one, name) for one in shown]
        label = f"{name.removesuffix('_s')}, {kind}"
        axes.plot(loads, ms, style, color=f"C{place}", markersize=4, label=label)
    for load, one in zip(loads, shown, strict=True):
        axes.annotate(
            one.name,
            (load, 1000 * one.p50_s),
            xytext=(0, -12),
            textcoords="offset points",
            fontsize="small",
            ha="center",
        )


def _draw_answers(axes: "Axes", results: Sequence[Result]) -> None:
    begin_s = 0.0
    for result in results:
        measured = result.moments_s >= 0
        axes.plot(
            begin_s + result.moments_s[measured],
            1000 * result.latencies_s[measured],
            ".",
            markersize=3,
            label=result.figures.name,
            rasterized=True,
        )
        begin_s += result.figures.seconds

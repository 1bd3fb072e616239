"""Latency against throughput: a picture for each workload."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from comparison import figures
from comparison.results import Results
from comparison.servers import SERVERS
from comparison.tables import present, title

# The same results make the same file.
mpl.rcParams.update({"svg.hashsalt": "batchserve", "svg.fonttype": "none"})
COLORS = mpl.color_sequences["tab20"]
WIDTHS = {"ours": 2.5, "peer": 1.2, "yardstick": 1.0}
STYLES = {"ours": "-", "peer": "-", "yardstick": ":"}


def plot(results: Results, workload: str, path: Path) -> None:
    """Draw p50 against requests/s, a line for each server, a point for each number of clients."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    names = [name for name in present(results) if name in SERVERS]
    for place, name in enumerate(names):
        _line(axes, results, workload, name, COLORS[place % len(COLORS)])
    axes.set(xscale="log", yscale="log", xlabel="requests/s", ylabel="p50, ms")
    axes.set_title(f"{workload}: each point is a number of clients")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None})


def _line(axes: Axes, results: Results, workload: str, name: str, color: ColorType) -> None:
    numbers = sorted({visit.clients for visit in results.visits if visit.workload == workload})
    points = [
        (clients, figures.figures(found))
        for clients in numbers
        if (found := figures.of(results.visits, workload, clients, name))
    ]
    if not points:
        return
    kind = SERVERS[name].kind
    rates = [point.rate for _, point in points]
    latencies = [point.p50_ms or 0 for _, point in points]
    label = title(name, results).strip("*")
    axes.plot(
        rates, latencies, STYLES[kind], marker="o", ms=3, lw=WIDTHS[kind], color=color, label=label
    )
    if kind == "ours":
        for (clients, _), rate, latency in zip(points, rates, latencies, strict=True):
            axes.annotate(str(clients), (rate, latency), fontsize="x-small", color=color)

"""A picture: throughput against batch size, a line for each variant."""

from collections.abc import Sequence
from pathlib import Path

from batchserve.plotting import name_axes, new_figure, save
from batchserve.tuning.choice import Choice
from batchserve.tuning.outcome import Outcome


def draw(path: Path, title: str, outcomes: Sequence[Outcome], choice: Choice | None) -> None:
    """Draw items a second by batch size, with the knee of each variant as a star.

    Raises:
        ConfigError: the file cannot be written.
    """
    figure = new_figure(height=5)
    axes = figure.subplots()
    axes.set_title(title, fontsize="medium")
    shown = [outcome for outcome in outcomes if outcome.measured]
    for place, outcome in enumerate(shown):
        seconds = outcome.seconds(outcome.threads)
        rates = [size / taken_s for size, taken_s in seconds.items()]
        is_best = choice is not None and outcome is choice.best
        label = f"{outcome.variant}{' (recommended)' if is_best else ''}"
        width = 2.5 if is_best else 1.2
        axes.plot(list(seconds), rates, ".-", color=f"C{place}", linewidth=width, label=label)
        axes.plot([outcome.knee], [outcome.rate], "*", color=f"C{place}", markersize=13)
    sizes = sorted({size for one in shown for size in one.seconds(one.threads)})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    name_axes(axes, "batch size (the knee: a star)", "items/s")
    axes.legend(fontsize="small")
    save(figure, path)

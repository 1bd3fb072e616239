"""A picture: throughput against batch size, a line for each variant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchserve.errors import ConfigError
from batchserve.tuning.choice import Choice
from batchserve.tuning.outcome import Outcome

FORMATS = (".svg", ".png", ".pdf")
# Text that can be read and searched.
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


def draw(path: Path, title: str, outcomes: Sequence[Outcome], choice: Choice | None) -> None:
    """Draw items a second by batch size, with the knee of each variant as a star.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - optional, and slow to load
    from matplotlib.figure import Figure  # noqa: PLC0415 - likewise

    figure = Figure(figsize=(9, 5), layout="constrained")
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
    axes.set_xlabel("batch size (the knee: a star)")
    axes.set_ylabel("items/s")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    undated = {"Date": None} if path.suffix.lower() == ".svg" else {}
    try:
        with rc_context(SVG):
            figure.savefig(path, metadata=undated)
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}; name another file") from None

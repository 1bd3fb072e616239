"""What all pictures have in common: where they can be drawn, how they look, how they are saved."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")
# The same numbers give the same SVG, to the byte, with text that can be read and searched.
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


def new_figure(height: float) -> "Figure":
    """Return an empty figure, as wide as all are.

    Args:
        height: in inches; the width is 9.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to load

    return Figure(figsize=(9, height), layout="constrained")


def name_axes(axes: "Axes", along: str, up: str) -> None:
    """Say what the axes show, and draw a faint grid."""
    axes.set_xlabel(along)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure into a file.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - optional, and slow to load

    undated = {"Date": None} if path.suffix.lower() == ".svg" else {}
    try:
        with rc_context(SVG):
            figure.savefig(path, metadata=undated)
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}; name another file") from None

"""What came of it, for people and for programs."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from batchserve.bench.figures import Figures, Floats
from batchserve.errors import ConfigError


@dataclass(frozen=True)
class Result:
    """A stage's figures, and some of its answers: their moments and latencies, in seconds."""

    figures: Figures
    moments_s: Floats
    latencies_s: Floats


def table_of(all_figures: Sequence[Figures]) -> Table:
    """Return a table with a line for each stage, and the columns that there is something to say in."""
    rows = [_cells(figures) for figures in all_figures]
    names = dict.fromkeys(name for row in rows for name in row)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row.get(name, "-") for name in names))
    return table


def line_of(figures: Figures) -> str:
    """Return a stage in one line."""
    cells = _cells(figures)
    name = cells.pop("load")
    return f"{name}: {', '.join(f'{column} {cell}' for column, cell in cells.items())}"


def outcomes_of(figures: Figures) -> str:
    """Return what became of the requests."""
    counts = ", ".join(f"{count} × {name}" for name, count in figures.outcomes.items())
    return f"{figures.name}: {counts}"


def _cells(figures: Figures) -> dict[str, str]:
    cells = {
        "load": figures.name,
        "offered/s": f"{figures.offered:.1f}",
        "answered/s": f"{figures.answered:.1f}",
    }
    if figures.goodput is not None:
        cells["in time/s"] = f"{figures.goodput:.1f}"
    for name in ("p50", "p90", "p99"):
        cells[name] = milliseconds(getattr(figures, f"{name}_s"))
    cells["max"] = milliseconds(figures.most_s)
    if not math.isnan(figures.batch_size):
        cells["batch"] = f"{figures.batch_size:.1f}"
    cells |= {name: milliseconds(seconds) for name, seconds in figures.parts_s.items()}
    if figures.parts_s:
        cells["rest"] = milliseconds(figures.rest_s)
    if figures.failures:
        cells["failed"] = str(sum(figures.failures.values()))
    return cells


def milliseconds(seconds: float) -> str:
    """Return a time with three digits."""
    if math.isnan(seconds):
        return "-"
    ms = 1000 * seconds
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"  # noqa: PLR2004 - three digits


def write_json(
    path: Path,
    situation: dict[str, Any],
    all_figures: Sequence[Figures],
    knee: Figures | None,
    advice: Sequence[str],
) -> None:
    """Write all numbers; times in seconds, null where there is none.

    Raises:
        ConfigError: the file cannot be written.
    """
    content = {
        **situation,
        "loads": [_plain(asdict(figures)) for figures in all_figures],
        "knee": None if knee is None else knee.name,
        "advice": list(advice),
    }
    try:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json-out {path}: {error.strerror}; name another file") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value

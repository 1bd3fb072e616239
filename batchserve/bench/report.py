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


def tables_of(all_figures: Sequence[Figures]) -> list[Table]:
    """Return what clients see, and what the server tells of it; a line for each load."""
    seen = _table([{"load": one.name, **_seen(one)} for one in all_figures])
    told = [{"load": one.name, **_told(one)} for one in all_figures if _told(one)]
    return [seen, _table(told)] if told else [seen]


def line_of(figures: Figures) -> str:
    """Return a load in a line, until the table comes."""
    failed = sum(figures.failures.values())
    return (
        f"{figures.name}: {figures.answered:.1f} answers/s, p50 {milliseconds(figures.p50_s)} ms, "
        f"p99 {milliseconds(figures.p99_s)} ms{f', {failed} failed' if failed else ''}"
    )


def outcomes_of(figures: Figures) -> str:
    """Return what became of the requests."""
    counts = ", ".join(f"{count} × {name}" for name, count in figures.outcomes.items())
    return f"{figures.name}: {counts}"


def _table(rows: list[dict[str, str]]) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    # Narrow enough for a terminal of 80 columns.
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row.get(name, "-") for name in names))
    return table


def _seen(figures: Figures) -> dict[str, str]:
    cells = {"offered/s": f"{figures.offered:.1f}", "answered/s": f"{figures.answered:.1f}"}
    if figures.goodput is not None:
        cells["in time/s"] = f"{figures.goodput:.1f}"
    for name in ("p50", "p90", "p99", "max"):
        cells[f"{name} ms"] = milliseconds(getattr(figures, f"{name}_s"))
    if figures.failures:
        cells["failed"] = str(sum(figures.failures.values()))
    return cells


def _told(figures: Figures) -> dict[str, str]:
    cells = {}
    if not math.isnan(figures.batch_size):
        cells["mean batch"] = f"{figures.batch_size:.1f}"
    cells |= {f"{name} ms": milliseconds(part_s) for name, part_s in figures.parts_s.items()}
    if figures.parts_s:
        cells["rest ms"] = milliseconds(figures.rest_s)
    return cells


def milliseconds(seconds: float) -> str:
    """Return a time with three digits."""
    if math.isnan(seconds):
        return "-"
    ms = 1000 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"  # noqa: PLR2004 - three digits


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

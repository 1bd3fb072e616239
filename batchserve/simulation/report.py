"""What came of it, for people and for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from batchserve.errors import ConfigError
from batchserve.simulation.simulator import Run
from batchserve.simulation.summary import Summary


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy's run.

    Attributes:
        policy: as the command line names it.
        summary: its numbers.
        run: all of it.
    """

    policy: str
    summary: Summary
    run: Run


@dataclass(frozen=True, slots=True)
class Bound:
    """What an oracle could do: answers per second in time."""

    goodput: float


def table_of(outcomes: Sequence[Outcome], bound: Bound | None) -> Table:
    """Return a table with a column for each policy."""
    table = Table("", *(outcome.policy for outcome in outcomes))
    if bound is not None:
        table.add_column("oracle")
    rows = [_cells(outcome.summary) for outcome in outcomes]
    for name in rows[0]:
        oracle = [_oracle_cell(name, bound)] if bound is not None else []
        table.add_row(name, *(cells[name] for cells in rows), *oracle)
    return table


def write_json(
    path: Path, situation: Mapping[str, Any], outcomes: Sequence[Outcome], bound: Bound | None
) -> None:
    """Write all numbers; times in seconds.

    Raises:
        ConfigError: the file cannot be written.
    """
    policies = {outcome.policy: _plain(outcome.summary) for outcome in outcomes}
    content = {"situation": situation, "policies": policies}
    if bound is not None:
        content["oracle"] = asdict(bound)
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}; name another file") from None


def _oracle_cell(name: str, bound: Bound) -> str:
    return f"≤ {bound.goodput:.1f}" if name == "goodput, in time/s" else ""


def _cells(summary: Summary) -> dict[str, str]:
    refused = sum(summary.refused.values())
    codes = ", ".join(f"{count} {code}" for code, count in summary.refused.items())
    return {
        "offered": f"{summary.offered} ({summary.offered / summary.seconds:.1f}/s)",
        "answered": f"{summary.answered} ({summary.throughput:.1f}/s)",
        "goodput, in time/s": f"{summary.goodput:.1f}",
        "late": str(summary.late),
        "refused": f"{refused} ({codes})" if refused else "0",
        "expired (504)": str(summary.expired),
        "p50, ms": _ms(summary.p50_s),
        "p95, ms": _ms(summary.p95_s),
        "p99, ms": _ms(summary.p99_s),
        "slowest, ms": _ms(summary.most_s),
        "mean batch": f"{summary.mean_batch:.2f}",
        "batch sizes": _histogram(summary.batch_sizes),
        "closed because": _shares({str(key): value for key, value in summary.reasons.items()}),
        "device busy": f"{summary.utilisation:.0%}",
    }


def _histogram(sizes: Mapping[int, int]) -> str:
    """Sum up in powers of two."""
    ranges: dict[str, int] = {}
    for size, passes in sizes.items():
        upper = 1 << (size - 1).bit_length()
        name = str(upper) if upper <= 2 else f"{upper // 2 + 1}-{upper}"  # noqa: PLR2004
        ranges[name] = ranges.get(name, 0) + passes
    return _shares(ranges)


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return "\n".join(f"{name}: {count / total:.0%}" for name, count in counts.items())


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _plain(summary: Summary) -> dict[str, Any]:
    return {
        **asdict(summary),
        "throughput": summary.throughput,
        "goodput": summary.goodput,
        "late": summary.late,
    }

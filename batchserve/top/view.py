"""The figures as a table for a terminal."""

import math
from collections import defaultdict, deque

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batchserve.top.figures import Figures

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 24
BUSY = 0.9


class View:
    """Draws one moment after the other; remembers the rates for a line of bars."""

    def __init__(self, addresses: list[str]) -> None:
        self._title = ", ".join(addresses)
        self._history: dict[tuple[str, str], deque[float]] = defaultdict(
            lambda: deque(maxlen=HISTORY)
        )

    def draw(self, figures: list[Figures], workers: int) -> RenderableType:
        """Return what is shown of one moment."""
        table = Table("model", "requests/s", box=None, header_style="bold", pad_edge=False)
        for name in ("p50", "p99", "batch", "queue", "backlog", "busy", "refused/s", "failed/s"):
            table.add_column(name, justify="right")
        for each in figures:
            history = self._history[each.model, each.version]
            history.append(each.requests_s)
            table.add_row(*_row(each, sparkline(history)))
        noun = "worker" if workers == 1 else "workers"
        return Group(Text(f"{self._title}: {workers} {noun}", style="bold"), Text(), table)

    def trouble(self, reason: str) -> RenderableType:
        """Return what is shown while a server does not answer."""
        return Text(f"{reason}; trying again", style="red")


def _row(each: Figures, bars: str) -> list[str | Text]:
    late = bool(each.slo_s) and each.p99_s > each.slo_s
    promise = f" of {_ms(each.slo_s)}" if each.slo_s else ""
    refused = ", ".join(f"{rate:.1f} {reason}" for reason, rate in each.refused_s.items())
    return [
        f"{each.model}:{each.version}",
        f"{each.requests_s:8.1f} {bars}",
        _ms(each.p50_s),
        Text(f"{_ms(each.p99_s)}{promise}", style="red" if late else ""),
        "-" if math.isnan(each.batch_size) else f"{each.batch_size:.1f}",
        str(each.queued),
        _ms(each.backlog_s),
        Text(f"{100 * each.busy:.0f} %", style="yellow" if each.busy > BUSY else ""),
        Text(refused or "-", style="yellow" if refused else ""),
        Text(f"{each.failed_s:.1f}" if each.failed_s else "-", style="red"),
    ]


def sparkline(values: "deque[float] | list[float]") -> str:
    """Return a bar for each value, the highest for the largest of them."""
    most = max(values, default=0.0)
    steps = len(BARS) - 1
    return "".join(BARS[round(steps * value / most) if most else 0] for value in values)


def _ms(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    ms = 1000 * seconds
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"  # noqa: PLR2004 - three digits

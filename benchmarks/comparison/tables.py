"""Figures as Markdown, put between markers of a document. Pure."""

import re
from collections.abc import Iterable, Sequence

from comparison import figures
from comparison.contestants import Visit
from comparison.results import Results
from comparison.rounds import IDEAL
from comparison.servers import SERVERS

OURS = "batchserve"
# What the README shows: a workload, and a number of clients.
SHOWN = (("tiny", 16), ("tiny", 256), ("mlp", 16), ("mlp", 256), ("image", 8))
NOTHING = "-"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right of the first column."""
    rule = ["---", *("--:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def put(text: str, marker: str, content: str) -> str:
    """Replace what a document has between `<!-- MARKER -->` and `<!-- /MARKER -->`.

    Raises:
        ValueError: the markers are not there, or not once.
    """
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)"
    replaced, times = re.subn(
        pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL
    )
    if times != 1:
        raise ValueError(f"the markers <!-- {marker} --> and <!-- /{marker} --> must be there once")
    return replaced


def summary(results: Results) -> str:
    """Return requests/s of everybody, and how ours compare, where the README looks."""
    visits = results.visits
    measured = {(visit.workload, visit.clients) for visit in visits}
    shown = [place for place in SHOWN if place in measured]
    header = ["requests/s", *(f"{workload}, {clients} clients" for workload, clients in shown)]
    rows = [
        [title(name, results), *(_rate(figures.of(visits, *place, name)) for place in shown)]
        for name in present(results)
    ]
    others: dict[str, list[str | None]] = {
        "best peer": [figures.best(visits, *place, servers=peers()) for place in shown],
        "ideal": [IDEAL for _ in shown],
        "bare handler": ["bare" for _ in shown],
    }
    for label, names in others.items():
        ratios = [_ratio(visits, *of_one) for of_one in zip(shown, names, strict=True)]
        rows.append([f"**{OURS} ÷ {label}**", *ratios])
    return table(header, rows)


def details(results: Results, workload: str) -> str:
    """Return all figures of a workload."""
    header = ["server", "clients", "requests/s", f"{OURS} ÷ it", "p50 ms", "p99 ms"]
    header += ["CPU µs/request", "batch", "memory MB", "failed"]
    numbers = sorted({visit.clients for visit in results.visits if visit.workload == workload})
    rows = [
        [title(name, results), str(clients), *_cells(results.visits, workload, clients, name)]
        for clients in numbers
        for name in present(results)
        if figures.of(results.visits, workload, clients, name)
    ]
    return table(header, rows)


def quick_cells(results: Results, workload: str, clients: int, names: Sequence[str]) -> list[str]:
    """Return the rates of some servers, and the first one's ratio to each other one."""
    place = (workload, clients)
    rates = [_rate(figures.of(results.visits, *place, name)) for name in names]
    return [*rates, *(_ratio(results.visits, place, name) for name in names[1:])]


def absent(results: Results) -> str:
    """Return who took no part, and what was said last."""
    return "\n".join(
        f"- {title(name, results)} ({workload}): {reason.splitlines()[0]}"
        for name, reasons in results.failures.items()
        for workload, reason in reasons.items()
    )


def present(results: Results) -> list[str]:
    """Return who took part, in the order of the tables."""
    return [name for name in (*SERVERS, IDEAL) if name in results.settings]


def peers() -> list[str]:
    """Return with whom ours are compared: the same model, at the same precision."""
    return [name for name, server in SERVERS.items() if server.kind == "peer" and not server.tuned]


def title(name: str, results: Results) -> str:
    if name == IDEAL:
        return "*ideal: no HTTP*"
    server = SERVERS[name]
    shown = server.title
    if server.peer is not None and name in results.versions:
        shown += f" {results.versions[name].rpartition(' ')[2]}"
    return f"*{shown}*" if server.kind == "yardstick" else shown


def _cells(visits: list[Visit], workload: str, clients: int, name: str) -> list[str]:
    found = figures.of(visits, workload, clients, name)
    shown = figures.figures(found)
    return [
        f"{shown.rate:,.0f}",
        _ratio(visits, (workload, clients), name),
        *(_number(figure, 2) for figure in (shown.p50_ms, shown.p99_ms)),
        _number(shown.cpu_us, 0),
        _number(shown.batch_size, 1),
        _number(shown.memory_mb, 0),
        str(shown.failures) if shown.p50_ms is not None else NOTHING,
    ]


def _rate(visits: list[Visit]) -> str:
    return f"{figures.figures(visits).rate:,.0f}" if visits else NOTHING


def _ratio(visits: list[Visit], place: tuple[str, int], other: str | None) -> str:
    if other is None:
        return NOTHING
    ours, theirs = (figures.of(visits, *place, name) for name in (OURS, other))
    found = figures.ratio(ours, theirs)
    return NOTHING if found is None else f"{found:.2f}"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"

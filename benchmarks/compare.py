"""batchserve beside its peers: the same models, on the same machine, in turn.

    python benchmarks/compare.py run [--servers batchserve,mosec] [--workloads tiny,mlp]
                                     [--clients 16,256] [--rounds 5] [--seconds 3] [--again]
    python benchmarks/compare.py publish     # pictures and tables from what `run` wrote
    python benchmarks/compare.py quick       # ours, and what bounds it

README.md, beside this file, tells what is measured and how each peer is set.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from comparison.publish import publish
from comparison.results import FOLDER, Results, read
from comparison.rounds import CLIENTS, IDEAL, Plan, measure, seconds_of_turns
from comparison.servers import SERVERS
from comparison.tables import OURS, quick_cells, summary, table
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from batchserve.memory import use_tcmalloc

EVERYBODY = [*SERVERS, IDEAL]
RESULTS = FOLDER / "comparison.json"
# What bounds a workload: reading and writing of requests, or parsing, decoding and computing.
BOUNDS = {"tiny": "bare", "mlp": IDEAL, "image": IDEAL}
QUICK_CLIENTS, QUICK_ROUNDS, QUICK_SECONDS = 16, 3, 1
console = Console(soft_wrap=True, highlight=False)


def main() -> None:
    # And so does everything that is begun from here.
    use_tcmalloc()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    _add_run(commands.add_parser("run", help="measure"))
    publishing = commands.add_parser("publish", help="pictures and tables from the results")
    publishing.add_argument("--results", type=Path, default=RESULTS)
    publishing.set_defaults(call=_publish)
    commands.add_parser("quick", help="ratios to the ideal and to a bare handler").set_defaults(
        call=_quick
    )
    options = parser.parse_args()
    options.call(options)


def _add_run(running: argparse.ArgumentParser) -> None:
    names = _list_of(str, EVERYBODY)
    running.add_argument("--servers", type=names, default=EVERYBODY, help=", ".join(EVERYBODY))
    workloads = _list_of(str, [*CLIENTS])
    running.add_argument("--workloads", type=workloads, default=[*CLIENTS])
    running.add_argument("--clients", type=_list_of(int), help="default: 1 to 256; image: 1 to 32")
    running.add_argument("--rounds", type=int, default=5)
    running.add_argument("--seconds", type=int, default=3, help="of a turn; image: twice that")
    running.add_argument("--results", type=Path, default=RESULTS, help="the file to write")
    running.add_argument(
        "--again", action="store_true", help="keep what the file has of other workloads"
    )
    running.set_defaults(call=_run)


def _list_of(kind: type, known: list[str] | None = None) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        found = [kind(part) for part in text.split(",")]
        if known is not None and (unknown := [one for one in found if one not in known]):
            raise argparse.ArgumentTypeError(f"{unknown[0]}: there are {', '.join(known)}")
        return found

    return parse


def _run(options: argparse.Namespace) -> None:
    clients = {name: [*(options.clients or CLIENTS[name])] for name in options.workloads}
    turns = seconds_of_turns(clients, options.seconds)
    servers = dict.fromkeys(options.workloads, options.servers)
    plan = Plan(servers, clients, options.rounds, turns)
    results = Results(options.rounds, options.seconds)
    if options.again:
        before = read(options.results)
        if (before.rounds, before.seconds) != (options.rounds, options.seconds):
            sys.exit(
                f"--again: {options.results} has {before.rounds} rounds of {before.seconds:g} s; "
                f"give --rounds {before.rounds} --seconds {before.seconds:g}"
            )
        results = before.without(plan.clients)
    _measure(plan, results, options.results)
    console.print(Markdown(summary(results)))
    console.print(f"written: {options.results}; `compare.py publish` makes pictures and tables")


def _publish(options: argparse.Namespace) -> None:
    for path in publish(read(options.results), options.results.parent):
        console.print(f"written: {path}")


def _quick(_: argparse.Namespace) -> None:
    servers = {workload: [OURS, bound] for workload, bound in BOUNDS.items()}
    clients = {workload: [QUICK_CLIENTS] for workload in BOUNDS}
    results = Results(QUICK_ROUNDS, QUICK_SECONDS)
    seconds = seconds_of_turns(clients, QUICK_SECONDS)
    _measure(Plan(servers, clients, QUICK_ROUNDS, seconds), results, None)
    header = [f"{QUICK_CLIENTS} clients", f"{OURS}/s", "its bound", "bound/s", f"{OURS} ÷ bound"]
    rows = []
    for workload, bound in BOUNDS.items():
        ours, bounds, ratio = quick_cells(results, workload, QUICK_CLIENTS, [OURS, bound])
        rows.append([workload, ours, bound, bounds, ratio])
    console.print(Markdown(table(header, rows)))


def _measure(plan: Plan, results: Results, path: Path | None) -> None:
    """Carry out a plan, with a bar that shows how far it is; write the results as they come."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (Debian: apt-get install wrk)")
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=plan.steps())

        def report(text: str, steps: int = 1) -> None:
            progress.update(task, advance=steps, description=text)

        for so_far in measure(plan, results, report):
            if path is not None:
                so_far.write(path)
    for name, reasons in results.failures.items():
        for workload, reason in reasons.items():
            console.print(f"[red]{name} took no part in {workload}[/]: {reason}", markup=True)


if __name__ == "__main__":
    main()

"""Below and far above capacity: a server with only an SLO, and one with N and T, load by load.

    python benchmarks/overload.py [--shipped | --sleeper] [--seconds 10] [--slo-ms 250] [--rounds 1]

Two servers of the same model, with one worker each: ours is told `slo_ms` alone, the other one has
`policy: fixed`, N=8, T=2 ms. Both get random traffic (Poisson, open loop) at 0.5, 0.9, 1.5 and 4
times what ours answers when it is kept busy; in turn, because machines are noisy.

What a refusal costs is what the loop's thread used at the highest load, less what it uses for
answers at the load below capacity. An answer is charged its share of the forward passes, too.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from serving import Server, serving

from batchserve.bench.advice import is_late
from batchserve.bench.figures import Figures, figures_of
from batchserve.bench.processes import Load, send
from batchserve.bench.request import Request
from batchserve.bench.schedule import Arrivals
from batchserve.bench.stage import Stage, closed, open_
from batchserve.bench.target import Target

LOADS = (0.5, 0.9, 1.5, 4.0)
CLIENTS = 48  # keep the server busy
FIXED = {"policy": "fixed", "max_batch_size": 8, "max_wait_ms": 2}
# No request is given up: how long the last of a queue waits is what is to be seen.
PATIENCE_S = 60.0
GOODPUT_KEPT, REFUSAL_SHARE = 0.95, 0.1

console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Run:
    """One load on one server: the generator's figures, and the CPU seconds that it took."""

    load: float
    figures: Figures
    loop_s: float
    others_s: float

    @property
    def refusals(self) -> int:
        return sum(self.figures.failures.values())

    @property
    def answers(self) -> int:
        return sum(self.figures.outcomes.values()) - self.refusals


@dataclass(frozen=True)
class Traffic:
    """What is sent."""

    body: Path
    content_type: str
    slo_ms: float
    seconds: float

    def send(self, server: Server, stage: Stage, **headers: str) -> Figures:
        target = Target.parse(f"{server.base}/predict")
        headers["content-type"] = self.content_type
        request = Request("POST", self.body.read_bytes(), headers)
        load = Load(target, [request.wire(target)], timeout_s=PATIENCE_S)
        return figures_of(stage, send(load, stage), self.slo_ms / 1000)

    def load(self, server: Server, load: float, capacity: float, seed: int) -> Run:
        before = server.cpu_seconds()
        stage = open_(load * capacity, Arrivals.POISSON, self.seconds, 0, seed)
        figures = self.send(server, stage)
        loop_s, others_s = (
            used - so_far for used, so_far in zip(server.cpu_seconds(), before, strict=True)
        )
        # The queue is empty; let the machine come to rest.
        time.sleep(1)
        return Run(load, figures, loop_s, others_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shipped", action="store_true", help="the image model, with photos")
    parser.add_argument("--sleeper", action="store_true", help="a model that takes no CPU time")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--slo-ms", type=float, default=250.0)
    parser.add_argument("--rounds", type=int, default=1, help="how often all loads come in turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        choose = shipped if options.shipped else sleeper if options.sleeper else rounds
        model, body, kind = choose(folder)
        traffic = Traffic(body, kind, options.slo_ms, options.seconds)
        with console.status("starting the servers …"):
            ours = stack.enter_context(
                serving(config({**model, "slo_ms": options.slo_ms}), folder / "ours")
            )
            fixed = stack.enter_context(
                serving(config({**model, "batching": FIXED}), folder / "fixed")
            )
        compare(ours, fixed, traffic, options.rounds)


def compare(ours: Server, fixed: Server, traffic: Traffic, rounds: int) -> None:
    with console.status(f"measuring capacity with {CLIENTS} clients …"):
        capacity, of_fixed = (capacity_of(server, traffic) for server in (ours, fixed))
    console.print(f"capacity: ours {capacity:.0f}/s, fixed {of_fixed:.0f}/s, closed loop")
    runs: dict[str, list[Run]] = {"ours": [], "fixed": []}
    for seed in range(rounds):
        for load in LOADS:
            for name, server in (("ours", ours), ("fixed", fixed)):
                with console.status(f"{load:g} × capacity to {name} …"):
                    runs[name].append(traffic.load(server, load, capacity, seed))
    console.print(table(runs, traffic.slo_ms))
    for name, of_one in runs.items():
        judge(name, of_one, traffic.slo_ms)


def capacity_of(server: Server, traffic: Traffic) -> float:
    # With so much patience, nobody is refused; the first seconds are the warm-up.
    stage = closed(CLIENTS, 6, 6)
    return traffic.send(server, stage, **{"x-request-timeout-ms": "30000"}).answered


def table(runs: dict[str, list[Run]], slo_ms: float) -> Table:
    shown = Table(title=f"an answer is good within {slo_ms:g} ms", title_justify="left")
    columns = "load,server,offered/s,accepted/s,goodput/s,p50 ms,p99 ms,batch,refused"
    for column in f"{columns},sent late (p99)".split(","):
        shown.add_column(column, justify="right")
    for pair in zip(*runs.values(), strict=True):
        for name, run in zip(runs, pair, strict=True):
            shown.add_row(f"{run.load:g}", name, *cells(run))
    return shown


def cells(run: Run) -> list[str]:
    found = run.figures
    numbers = (
        *(found.offered, found.answered, found.goodput or 0.0),
        *(1000 * found.p50_s, 1000 * found.p99_s),
    )
    fell_behind = " (fell behind!)" if is_late(found) else ""
    return [
        *(f"{number:.0f}" for number in numbers),
        f"{found.batch_size:.1f}",
        ", ".join(f"{count} × {name}" for name, count in found.failures.items()) or "-",
        f"{1000 * found.lag_p99_s:.1f} ms{fell_behind}",
    ]


def judge(name: str, runs: list[Run], slo_ms: float) -> None:
    """Say whether the promises are kept."""
    goodput = {load: goodput_of(runs, load) for load in LOADS}
    kept = goodput[max(LOADS)] / max(goodput.values())
    verdict(name, f"goodput at {max(LOADS):g} × is {kept:.1%} of its peak", kept >= GOODPUT_KEPT)
    below = [1000 * run.figures.p99_s for run in runs if run.load < 1]
    verdict(name, f"p99 below capacity is at most {max(below):.0f} ms", max(below) <= slo_ms)
    if sum(run.refusals for run in runs if run.load == max(LOADS)):
        answer_s, refusal_s = costs(runs)
        verdict(
            name,
            f"CPU: {1e3 * answer_s:.2f} ms for an answer, {1e3 * refusal_s:.2f} ms for a refusal, "
            f"{refusal_s / answer_s:.1%} of it",
            refusal_s / answer_s < REFUSAL_SHARE,
        )
    unknown = {
        name: count
        for run in runs
        for name, count in run.figures.failures.items()
        if not name.startswith(("503", "504"))
    }
    if unknown:
        console.print(f"[red]{name}: unexpected: {unknown}[/]")


def goodput_of(runs: list[Run], load: float) -> float:
    found = [run.figures.goodput or 0.0 for run in runs if run.load == load]
    return sum(found) / len(found)


def costs(runs: list[Run]) -> tuple[float, float]:
    """Return the CPU seconds of an answer and of a refusal."""
    below = [run for run in runs if run.load < 1]
    above = [run for run in runs if run.load == max(LOADS)]
    loop_s = sum(run.loop_s for run in below) / sum(run.answers for run in below)
    answers = sum(run.answers for run in above)
    refusals = sum(run.refusals for run in above)
    answer_s = loop_s + sum(run.others_s for run in above) / answers
    return answer_s, (sum(run.loop_s for run in above) - loop_s * answers) / refusals


def verdict(name: str, text: str, kept: bool) -> None:
    console.print(f"{name:>5}: {text:<75} {'[green]kept[/]' if kept else '[red]missed[/]'}")


def config(model: dict[str, Any]) -> dict[str, Any]:
    # One thread: the generator and the event loop need the other core.
    return {"server": {"workers": 1, "accesslog": None, "torch_threads": 1}, "models": [model]}


def rounds(folder: Path) -> tuple[dict[str, Any], Path, str]:
    body = folder / "body.json"
    body.write_text(json.dumps({"input": [0.5] * 16}), encoding="utf-8")
    model = {"name": "rounds", "source": "bench_models:Rounds", "device": "cpu"}
    return {**model, "input_shape": [16]}, body, "application/json"


def sleeper(folder: Path) -> tuple[dict[str, Any], Path, str]:
    """As on an accelerator: what is measured is the server alone."""
    body = folder / "body.json"
    body.write_text(json.dumps({"input": [1, 0]}), encoding="utf-8")
    model = {"name": "sleeper", "source": "bench_models:Witness", "device": "cpu"}
    return {**model, "input_shape": [2]}, body, "application/json"


def shipped(folder: Path) -> tuple[dict[str, Any], Path, str]:
    import yaml  # noqa: PLC0415
    from shipped_model import ROOT, write_body  # noqa: PLC0415 - needs the demo's packages

    described = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["models"][0]
    del described["batching"]
    return described, write_body(folder), "application/json"


if __name__ == "__main__":
    main()

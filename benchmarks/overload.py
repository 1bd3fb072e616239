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
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from serving import HERE, Server, serving

LOADS = (0.5, 0.9, 1.5, 4.0)
CLIENTS = 48  # keep the server busy
FIXED = {"policy": "fixed", "max_batch_size": 8, "max_wait_ms": 2}
# What a load is called late for, relative to the SLO.
LAG = 0.05
GOODPUT_KEPT, REFUSAL_SHARE = 0.95, 0.1

console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Run:
    """One load on one server: the generator's figures, and the CPU seconds that it took."""

    load: float
    figures: dict[str, Any]
    loop_s: float
    others_s: float


@dataclass(frozen=True)
class Traffic:
    """What is sent."""

    body: Path
    content_type: str
    slo_ms: float
    seconds: float

    def send(self, server: Server, *options: str) -> dict[str, Any]:
        command = [
            *(sys.executable, str(HERE / "open_loop.py"), f"{server.base}/predict"),
            *(str(self.body), self.content_type, "--slo-ms", str(self.slo_ms), *options),
        ]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        figures: dict[str, Any] = json.loads(printed)
        return figures

    def load(self, server: Server, load: float, capacity: float, seed: int) -> Run:
        before = server.cpu_seconds()
        figures = self.send(
            server, f"--rate={load * capacity}", f"--seconds={self.seconds}", f"--seed={seed}"
        )
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
    # With so much patience, nobody is refused.
    options = (f"--clients={CLIENTS}", "--seconds=6", "--timeout-ms=30000")
    traffic.send(server, *options)
    accepted: float = traffic.send(server, *options)["accepted"]
    return accepted


def table(runs: dict[str, list[Run]], slo_ms: float) -> Table:
    shown = Table(title=f"an answer is good within {slo_ms:g} ms", title_justify="left")
    columns = "load,server,offered/s,accepted/s,goodput/s,p50 ms,p99 ms,refused,with Retry-After"
    for column in f"{columns},batch,sent late (p99)".split(","):
        shown.add_column(column, justify="right")
    for pair in zip(*runs.values(), strict=True):
        for name, run in zip(runs, pair, strict=True):
            shown.add_row(f"{run.load:g}", name, *cells(run, slo_ms))
    return shown


def cells(run: Run, slo_ms: float) -> list[str]:
    found = run.figures
    late = found["lag_p99_ms"] > LAG * slo_ms
    return [
        *(f"{found[name]:.0f}" for name in ("offered", "accepted", "goodput", "p50_ms", "p99_ms")),
        *(f"{found[name]}" for name in ("refusals", "refused_with_advice")),
        f"{found['batch_size']:.1f}",
        f"{found['lag_p99_ms']:.1f} ms{' (fell behind!)' if late else ''}",
    ]


def judge(name: str, runs: list[Run], slo_ms: float) -> None:
    """Say whether the promises are kept."""
    goodput = {load: mean(runs, load, "goodput") for load in LOADS}
    kept = goodput[max(LOADS)] / max(goodput.values())
    verdict(name, f"goodput at {max(LOADS):g} × is {kept:.1%} of its peak", kept >= GOODPUT_KEPT)
    below = [run.figures["p99_ms"] for run in runs if run.load < 1]
    verdict(name, f"p99 below capacity is at most {max(below):.0f} ms", max(below) <= slo_ms)
    if sum(run.figures["refusals"] for run in runs if run.load == max(LOADS)):
        answer_s, refusal_s = costs(runs)
        verdict(
            name,
            f"CPU: {1e3 * answer_s:.2f} ms for an answer, {1e3 * refusal_s:.2f} ms for a refusal, "
            f"{refusal_s / answer_s:.1%} of it",
            refusal_s / answer_s < REFUSAL_SHARE,
        )
    unknown = {
        status: count
        for run in runs
        for status, count in run.figures["statuses"].items()
        if status not in ("200", "503", "504")
    }
    if unknown:
        console.print(f"[red]{name}: unexpected: {unknown}[/]")


def mean(runs: list[Run], load: float, figure: str) -> float:
    found = [run.figures[figure] for run in runs if run.load == load]
    return float(sum(found) / len(found))


def costs(runs: list[Run]) -> tuple[float, float]:
    """Return the CPU seconds of an answer and of a refusal."""
    below = [run for run in runs if run.load < 1]
    above = [run for run in runs if run.load == max(LOADS)]
    loop_s = sum(run.loop_s for run in below) / sum(run.figures["answers"] for run in below)
    answers = sum(run.figures["answers"] for run in above)
    refusals = sum(run.figures["refusals"] for run in above)
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

"""Our policy beside fixed sizes and waits, Clipper's AIMD and an oracle, in virtual time.

    python benchmarks/policies.py [--requests 3000]

Prints the table of docs/batching.md. Nothing is measured, so any machine gives the same figures.
Ours knows of the promise by `slo_ms` alone; to the others every request states it as its timeout,
which is to their favour: what has expired is not computed.
"""

import argparse
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import track

from batchserve.config import ModelConfig
from batchserve.simulation.machine import Machine
from batchserve.simulation.study import Study
from batchserve.simulation.traffic import Bursts

LOADS = (0.5, 0.9, 1.5, 4.0)
PATTERNS = ("poisson", "bursty")
GRID_SIZES, GRID_WAITS_MS = (1, 4, 8, 16, 32), (0.0, 10.0)
# Of a queue that is tuned too, in batches.
QUEUES = (1, 2, 4)
HEADS = (
    *("arrivals", "load", "ours", "best N, T", "best N, T, queue", "N = 8, T = 2 ms", "AIMD"),
    "oracle",
)
TYPICAL = "fixed:8:2"
NOISE = 0.05


@dataclass(frozen=True)
class Device:
    """Milliseconds by batch size, and what is promised."""

    name: str
    forward_ms: dict[int, float]
    slo_ms: float
    largest: int


DEVICES = [
    Device("accelerator, 8 + 2·b ms", {1: 10, 32: 72}, 200, 32),
    Device("CPU, 5 + 25·b ms", {1: 30, 32: 805}, 1000, 32),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--requests", type=int, default=3000, help="that the device could answer in each run"
    )
    options = parser.parse_args()
    for device in DEVICES:
        print(f"\n**{device.name}, {device.slo_ms:g} ms promised**\n")
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
        situations = [(pattern, load) for pattern in PATTERNS for load in LOADS]
        for pattern, load in track(
            situations, device.name, console=Console(stderr=True), transient=True
        ):
            print(row_of(study_of(device, pattern, load, options.requests)), flush=True)


def study_of(device: Device, pattern: str, load: float, requests: int) -> Study:
    forward_s = {size: ms / 1000 for size, ms in device.forward_ms.items()}
    machine = Machine(forward_s, noise=NOISE)
    model = ModelConfig.model_validate(
        {
            "name": "model",
            "source": "a:b",
            "slo_ms": device.slo_ms,
            "batching": {"max_batch_size": device.largest},
        }
    )
    capacity = machine.capacity(device.largest)
    return Study(
        model=model,
        machine=machine,
        largest=device.largest,
        pattern=pattern,
        rate=load * capacity,
        seconds=requests / capacity,
        bursts=Bursts(3, 0.2, requests / capacity / 20),
    )


def row_of(study: Study) -> str:
    # Their clients state the promise as their timeout.
    stated = replace(study, timeout_ms=study.model.slo_ms)
    grid = {
        f"{size}, {wait_ms:g}": cell(stated, f"fixed:{size}:{wait_ms:g}")
        for size in GRID_SIZES
        for wait_ms in GRID_WAITS_MS
    }
    queues = {
        f"{size}, 0, {size * batches}": cell(queueing(stated, size * batches), f"fixed:{size}:0")
        for size in GRID_SIZES
        for batches in QUEUES
    }
    cells = [
        cell(study, "ours")[1],
        best_of(grid),
        best_of(queues),
        cell(stated, TYPICAL)[1],
        cell(stated, "aimd")[1],
        f"≤ {study.bound().goodput / study.capacity:.2f}",
    ]
    load = study.rate / study.capacity
    return f"| {study.pattern} | {load:.1f} | {' | '.join(cells)} |"


def queueing(study: Study, places: int) -> Study:
    batching = study.model.batching.model_copy(update={"max_queue_size": places})
    return replace(study, model=study.model.model_copy(update={"batching": batching}))


def best_of(cells: dict[str, tuple[float, str]]) -> str:
    best = max(cells, key=lambda name: cells[name][0])
    return f"{cells[best][1]} ({best})"


def cell(study: Study, policy: str) -> tuple[float, str]:
    """Return goodput over capacity, and that with the p99 over the promise and the mean batch."""
    summary = study.look(policy).summary
    promise_s = study.promise_s or 1.0
    goodput = summary.in_time / study.seconds / study.capacity
    late = summary.p99_s / promise_s
    return goodput, f"{goodput:.2f}, {late:.2f}, {summary.mean_batch:.1f}"


if __name__ == "__main__":
    main()

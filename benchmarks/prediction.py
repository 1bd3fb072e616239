"""Does `batchserve simulate` predict what a real server does?

    python benchmarks/prediction.py [--model device|cpu] [--seconds 20] [--loads 0.3,0.9]

Starts `batchserve serve` with one worker, sends Poisson arrivals at several multiples of its
capacity, and times each answer from the moment at which it was meant to be sent. Then the simulator
gets the same arrivals and what the passes took (`Server-Timing` tells), and both are compared.

`device` is a pass that waits, as for an accelerator, 36 ms for one input and 126 ms for 16; `cpu`
is a small network on one thread. On a machine that others use, the latter changes its speed all the
time, and the tail with it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from shipped_model import free_port, wait_until_ready

from batchserve.bench import processes
from batchserve.bench.figures import durations, is_success
from batchserve.bench.processes import Load
from batchserve.bench.request import Request
from batchserve.bench.stage import Stage, closed
from batchserve.bench.tally import Tally
from batchserve.bench.target import Target
from batchserve.config import Config, ModelConfig
from batchserve.simulation.machine import Machine
from batchserve.simulation.recording import Recording
from batchserve.simulation.simulator import random_for
from batchserve.simulation.study import Study
from batchserve.simulation.traffic import poisson

ROOT = Path(__file__).parent.parent
LARGEST = 16
MODELS = """
import time
from torch import nn

class Device(nn.Module):
    def forward(self, batch):
        time.sleep(0.030 + 0.006 * len(batch))
        return batch

def cpu():
    layers = [layer for _ in range(6) for layer in (nn.Linear(2048, 2048), nn.ReLU())]
    return nn.Sequential(nn.Linear(16, 2048), *layers, nn.Linear(2048, 16))

device = Device
"""
CONFIG = """
server: {{bind: "{bind}", workers: 1, torch_threads: 1, accesslog: null}}
models:
  - name: measured
    source: "prediction_models:{model}"
    input_shape: [16]
    device: cpu
    slo_ms: {slo_ms}
    batching: {{max_batch_size: {largest}}}
"""
BODY = b'{"input": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]}'
console = Console(width=110, highlight=False)


@dataclass(frozen=True)
class Sample:
    """One request: seconds from its intended sending to its answer, and what the server said."""

    latency_s: float
    lag_s: float  # how late it was sent, because this machine had something else to do
    batch_size: int = 0
    forward_s: float = 0.0
    queue_s: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=["device", "cpu"], default="device")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--loads", default="0.3,0.6,0.9,1.5", help="multiples of the capacity")
    parser.add_argument("--slo-ms", type=float, default=700)
    options = parser.parse_args()
    loads = [float(load) for load in options.loads.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        bind = f"127.0.0.1:{free_port()}"
        config = write_config(Path(folder), bind, options.model, options.slo_ms)
        server = start(config)
        try:
            with console.status("starting the server …"):
                wait_until_ready(bind, server)
            loop = Loop(server.pid)
            compare(f"http://{bind}/predict", loop, loads, options.seconds, options.slo_ms)
        finally:
            server.terminate()
            server.wait()


def write_config(folder: Path, bind: str, model: str, slo_ms: float) -> Path:
    (folder / "prediction_models.py").write_text(MODELS, encoding="utf-8")
    path = folder / "config.yaml"
    text = CONFIG.format(bind=bind, model=model, slo_ms=slo_ms, largest=LARGEST)
    path.write_text(text, encoding="utf-8")
    return path


def start(config: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "batchserve.cli", "serve", config],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Loop:
    """The thread of the server's one worker that reads and answers."""

    def __init__(self, master: int) -> None:
        (self._worker,) = psutil.Process(master).children()

    def busy_s(self) -> float:
        """Return the seconds of CPU that it has used."""
        threads = {thread.id: thread for thread in self._worker.threads()}
        main = threads[self._worker.pid]
        return float(main.user_time + main.system_time)


def compare(url: str, loop: Loop, loads: list[float], seconds: float, slo_ms: float) -> None:
    """Measure and simulate each load, and print both."""
    with console.status("measuring what passes and requests take …"):
        before_s = loop.busy_s()
        alone = send(url, closed(1, 4, 0))
        request_s = (loop.busy_s() - before_s) / len(alone)
        crowd = send(url, Stage("crowd", 1, 0, moments=[0.0] * 20 * LARGEST))
    beside_s = median(sample.latency_s - sample.forward_s - sample.queue_s for sample in alone)
    # What neither the loop nor the device does: the way there and back, and the client.
    way_s = max(0.0, beside_s - request_s)
    forward_s = recording_of([], [*alone, *crowd]).forward_s
    capacity = Machine(forward_s, request_s=request_s).capacity(LARGEST)
    shown = ", ".join(f"{size}: {1000 * took:.1f}" for size, took in forward_s.items())
    console.print(f"forward ms {shown}")
    console.print(f"a request: {1000 * request_s:.2f} ms on the loop, {1000 * way_s:.2f} outside")
    console.print(f"capacity about {capacity:.0f} requests/s, promise {slo_ms:g} ms")
    names = ("answers/s", "p50 ms", "p95 ms", "p99 ms", "refused", "mean batch", "sent late ms")
    table = Table("load", "", *names)
    for load in loads:
        rng = random_for(0, f"load {load}")
        times_s = list(takewhile(lambda at_s: at_s < seconds, poisson(load * capacity, rng)))
        with console.status(f"load {load:g}: {len(times_s)} requests …"):
            before_s = loop.busy_s()
            measured = send(url, Stage("load", times_s[-1], 0, moments=times_s))
            request_s = (loop.busy_s() - before_s) / len(times_s)
        predicted = predict(times_s, measured, request_s, way_s, slo_ms)
        add_rows(table, load, figures(measured, times_s[-1]), predicted)
        time.sleep(1)
    console.print(table)


def send(url: str, stage: Stage) -> list[Sample]:
    target = Target.parse(url)
    request = Request("POST", BODY, {"content-type": "application/json"})
    (tally,) = processes.send(Load(target, [request.wire(target)]), stage)
    return [sample_of(tally, place) for place in range(len(tally))]


def sample_of(tally: Tally, place: int) -> Sample:
    meant_s = tally.meant_s[place]
    latency_s, lag_s = tally.done_s[place] - meant_s, tally.sent_s[place] - meant_s
    if not is_success(tally.names[tally.outcomes[place]]):
        return Sample(latency_s, lag_s)
    parts_s = durations(tally.timings[place])
    batch_size = tally.batch_sizes[place]
    return Sample(latency_s, lag_s, batch_size, parts_s["forward"], parts_s["queue"])


def recording_of(times_s: list[float], samples: list[Sample]) -> Recording:
    """Return what the server told of its passes, with when requests were sent."""
    # Each item tells of its pass; passes of one size are told apart by their microseconds.
    passes: dict[int, set[float]] = defaultdict(set)
    for sample in samples:
        if sample.batch_size:
            passes[sample.batch_size].add(sample.forward_s)
    return Recording(times_s, {size: sorted(passes[size]) for size in sorted(passes)})


def predict(
    times_s: list[float], measured: list[Sample], request_s: float, way_s: float, slo_ms: float
) -> dict[str, float]:
    recording = recording_of(times_s, measured)
    model = ModelConfig.model_validate(
        {
            "name": "measured",
            "source": "prediction_models:device",
            "slo_ms": slo_ms,
            "batching": {"max_batch_size": LARGEST},
        }
    )
    study = Study(
        model=model,
        machine=Machine(recording.forward_s, ratios=tuple(recording.ratios), request_s=request_s),
        largest=LARGEST,
        pattern="recorded",
        recorded_s=times_s,
        seconds=times_s[-1] + 1e-3,
        default_timeout_ms=Config(models=[model]).server.default_timeout_ms,
    )
    summary = study.look("ours").summary
    return {
        "answers": summary.answered / times_s[-1],
        "p50": 1000 * (summary.p50_s + way_s),
        "p95": 1000 * (summary.p95_s + way_s),
        "p99": 1000 * (summary.p99_s + way_s),
        "refused": float(sum(summary.refused.values())),
        "batch": summary.mean_batch,
    }


def figures(samples: list[Sample], seconds: float) -> dict[str, float]:
    answered = [sample for sample in samples if sample.batch_size]
    p50_s, p95_s, p99_s = np.percentile([sample.latency_s for sample in answered], [50, 95, 99])
    passes = sum(1 / sample.batch_size for sample in answered)
    return {
        "answers": len(answered) / seconds,
        "p50": 1000 * float(p50_s),
        "p95": 1000 * float(p95_s),
        "p99": 1000 * float(p99_s),
        "refused": float(len(samples) - len(answered)),
        "batch": len(answered) / passes,
        "lag": 1000 * float(np.percentile([sample.lag_s for sample in samples], 99)),
    }


def add_rows(
    table: Table, load: float, measured: dict[str, float], predicted: dict[str, float]
) -> None:
    def row(name: str, cells: Any) -> None:
        table.add_row(f"{load:g}", name, *cells)

    row("measured", (f"{value:.1f}" for value in measured.values()))
    row("predicted", (f"{value:.1f}" for value in predicted.values()))
    ratios = (
        f"{predicted[name] / value:.2f}" if value and name in predicted else ""
        for name, value in measured.items()
    )
    row("ratio", ratios)
    table.add_section()


if __name__ == "__main__":
    main()

"""The server on a GPU, beside the bare module on the same one: items in a second.

    python benchmarks/gpu.py [--source torchvision:resnet50] [--sizes 1,2,4,…] [--seconds 3]

`module` is the model on inputs that lie on the device already, `pass` what the server does with a
batch in memory: collate, copy, normalise, run, copy back, split. For `tensors` and `jpeg` a whole
server with one worker is asked by twice as many clients as a batch has: for pixels in the binary
form of the Open Inference Protocol, and for JPEG files. Written to
benchmarks/results/gpu-DEVICE.json. It runs without a GPU as well, which tells nothing.
"""

import argparse
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from serving import HERE, Server, serving

from batchserve.bench.figures import figures_of
from batchserve.bench.processes import Load, send
from batchserve.bench.request import Request
from batchserve.bench.stage import closed
from batchserve.bench.target import Target
from batchserve.config import ModelConfig
from batchserve.loading import (
    DTYPES,
    has_convolutions,
    laid_out,
    load_module,
    pick_device,
    place_module,
)
from batchserve.repository.warming import warm
from batchserve.runners.forward import Forward
from batchserve.runners.reproducible import like
from batchserve.samples import drawn_jpeg
from batchserve.tasks import build_task

MODEL = "measured"
WARM_UP_S = 0.5
PROCESSES = 4


@dataclass
class Row:
    """Items in a second for batches of `size`; of the server, also what a request took."""

    size: int
    module: float = 0.0
    forward: float = 0.0
    tensors: float = 0.0
    tensors_p50_ms: float = 0.0
    jpeg: float = 0.0
    jpeg_p50_ms: float = 0.0


class InProcess:
    """A model as the server has it after its warm-up, and its module alone."""

    def __init__(self, config: ModelConfig, most: int) -> None:
        self._dtype = DTYPES[config.precision]
        module = load_module(config)
        self._task = build_task(config, module)
        self.device = pick_device(config.device)
        self._module = place_module(module, config, self.device)
        self.forward = Forward(self._module, self._task, self.device, self._dtype)
        example = self._task.example()
        assert example is not None
        self._items = like(example, most)
        warm(
            config, self._task, self.forward, most, lambda *_: None,
            may_choose_layout=has_convolutions(self._module),
        )  # fmt: skip

    @torch.inference_mode()
    def module_rate(self, size: int, seconds: float) -> float:
        batch = torch.stack(self._items[:size]).to(self.device)
        inputs = self._task.preprocess(batch).to(self._dtype)
        inputs = laid_out(inputs, channels_last=self.forward.channels_last)
        return self._rate(partial(self._module, inputs), size, seconds)

    def forward_rate(self, size: int, seconds: float) -> float:
        return self._rate(partial(self.forward, self._items[:size]), size, seconds)

    def _rate(self, run: Callable[[], object], size: int, seconds: float) -> float:
        for _ in range(3):
            run()
        self._wait()
        passes, started_s = 0, time.perf_counter()
        while time.perf_counter() - started_s < seconds:
            run()
            passes += 1
            # The host must not run ahead by more than the clock can see.
            if passes % 16 == 0:
                self._wait()
        self._wait()
        return size * passes / (time.perf_counter() - started_s)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def of_pixels(base: str, crop: int) -> tuple[Target, Request]:
    """Return a request with one image in the binary form of the Open Inference Protocol."""
    pixels = like(torch.zeros(1, crop, crop, 3, dtype=torch.uint8), 1)[0].numpy().tobytes()
    stated = {
        "name": "input",
        "shape": [1, crop, crop, 3],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": len(pixels)},
    }
    head = json.dumps({"inputs": [stated], "parameters": {"binary_data_output": True}}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Target.parse(f"{base}/v2/models/{MODEL}/infer"), Request("POST", head + pixels, headers)


def of_jpeg(base: str) -> tuple[Target, Request]:
    return Target.parse(f"{base}/predict"), Request(
        "POST", drawn_jpeg(), {"Content-Type": "image/jpeg"}
    )


def asked(target: Target, request: Request, size: int, seconds: float) -> tuple[float, float]:
    """Return answers in a second, and the median of what one took in ms."""
    clients = 2 * size
    load = Load(target, [request.wire(target)], processes=min(clients, PROCESSES))
    stage = closed(clients, seconds, WARM_UP_S)
    figures = figures_of(stage, send(load, stage))
    if figures.failures:
        raise SystemExit(f"{target}: {figures.failures}")
    return figures.answered, 1000 * figures.p50_s


def measure(server: Server, here: InProcess, row: Row, crop: int, seconds: float) -> None:
    row.module = here.module_rate(row.size, seconds)
    row.forward = here.forward_rate(row.size, seconds)
    row.tensors, row.tensors_p50_ms = asked(*of_pixels(server.base, crop), row.size, seconds)
    row.jpeg, row.jpeg_p50_ms = asked(*of_jpeg(server.base), row.size, seconds)


def section(options: argparse.Namespace, sizes: list[int]) -> dict[str, Any]:
    crop = options.crop
    return {
        "name": MODEL,
        "source": options.source,
        "task": "image-classification",
        "image": {"resize": crop * 8 // 7, "crop": crop},
        "device": options.device,
        "precision": options.precision,
        "compile": options.compile,
        "batching": {"max_batch_size": max(sizes), "max_queue_size": 8 * max(sizes)},
    }


def table_of(rows: list[Row], title: str) -> Table:
    table = Table("batch", "module", "pass", "tensors", "jpeg", title=f"{title}: items/s, ÷ module")
    for row in rows:
        rates = (row.forward, row.tensors, row.jpeg)
        cells = [f"{rate:.0f}, {rate / row.module:.2f}" for rate in rates]
        table.add_row(str(row.size), f"{row.module:.0f}", *cells)
    return table


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", default="torchvision:resnet50")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bf16", choices=list(DTYPES))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--crop", type=int, default=224, help="pixels")
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64", help="of batches")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    console = Console()
    with console.status("loading the model, and compiling and recording what is …"):
        model = section(options, sizes)
        here = InProcess(ModelConfig.model_validate(model), max(sizes))
    rows = [Row(size) for size in sizes]
    config = {"server": {"workers": 1, "accesslog": None}, "models": [model]}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(config, Path(folder)) as server,
        Progress(console=console) as progress,
    ):
        for row in progress.track(rows, description="batch sizes"):
            measure(server, here, row, options.crop, options.seconds)
        log = [line for line in server.output().splitlines() if "CUDA graphs" in line]
    name = device_name(here.device)
    console.print(table_of(rows, f"{options.source}, {options.precision} on {name}"))
    write(options, name, rows, log)


def write(options: argparse.Namespace, name: str, rows: list[Row], log: list[str]) -> None:
    told = {
        "device": name,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "log": log,
        **{key: value for key, value in vars(options).items() if key != "results"},
        "items_per_second": [asdict(row) for row in rows],
    }
    options.results.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = options.results / f"gpu-{slug}.json"
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()

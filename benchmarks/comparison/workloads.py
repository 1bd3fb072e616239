"""What is served: three models, each with how its input is read and its answer told.

Every server but batchserve calls `Service`, so that all of them run the same code around the same
module. batchserve is given the module (`tiny`, `mlp`, `image`) and does the rest itself.
"""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pybase64
import torch
from PIL import Image
from torch import Tensor, nn

from comparison.passes import Passes

SEED = 0
RESIZE, CROP = 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOP_K = 5
# What the environment of a server's process says.
WORKLOAD, THREADS, TUNED = "BENCH_WORKLOAD", "BENCH_THREADS", "BENCH_TUNED"
# What it says to those that are told when to close a batch.
BATCH_SIZE, WAIT_MS, PORT = "BENCH_BATCH_SIZE", "BENCH_WAIT_MS", "BENCH_PORT"
# What `batchserve tune` recommends for `image`, on CPUs that multiply bf16 in tiles and on others.
HAS_AMX = "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
TUNED_PRECISION, TUNED_BATCH = ("bf16", 16) if HAS_AMX else ("fp32", 8)
TUNED_DTYPE = {"bf16": torch.bfloat16, "fp32": torch.float32}[TUNED_PRECISION]


def tiny() -> nn.Module:
    """10 numbers to 10 numbers, for next to nothing."""
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 10)).eval()


def mlp() -> nn.Module:
    """784 numbers to 10, through 23 MB of weights."""
    torch.manual_seed(SEED)
    widths = (784, 2048, 2048, 10)
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def image() -> nn.Module:
    """ResNet-18 whose answers depend on the image, though nobody has trained it.

    With fresh statistics in its normalisation layers, all images get nearly the same scores, and a
    wrong answer would look like a right one. So they are taken of noise, and the scores spread.
    """
    from torchvision.models import resnet18  # noqa: PLC0415 - the other models do without

    torch.manual_seed(SEED)
    model: Any = resnet18(weights=None)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean
    noise = 1.2 * nn.functional.interpolate(torch.randn(8, 3, 14, 14), CROP, mode="bilinear")
    with torch.no_grad():
        model(noise)
        model.fc.weight.mul_(3)
    ready: nn.Module = model.eval()
    return ready


def numbers_in(payloads: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(payloads, dtype=np.float32))


def numbers_out(rows: Tensor) -> list[Any]:
    numbers: list[Any] = rows.float().tolist()
    return numbers


def pixels_of(payload: str) -> Tensor:
    """Return what the model sees of a JPEG in base64: float32 of shape (3, 224, 224)."""
    photo = Image.open(io.BytesIO(pybase64.b64decode(payload))).convert("RGB")
    # As torchvision's Resize and CenterCrop round it, in one step.
    sides = [int(RESIZE * side / min(photo.size)) for side in photo.size]
    scales = [side / resized for side, resized in zip(photo.size, sides, strict=True)]
    corner = [round((side - CROP) / 2) * scale for side, scale in zip(sides, scales, strict=True)]
    opposite = [at + CROP * scale for at, scale in zip(corner, scales, strict=True)]
    box = (corner[0], corner[1], opposite[0], opposite[1])
    square = photo.resize((CROP, CROP), Image.Resampling.BILINEAR, box=box)
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return pixels.div_(255).sub_(mean).div_(std)


# Decoding releases the GIL: the photos of a batch are shared out over the cores.
_decoders = ThreadPoolExecutor(os.cpu_count())


def images_in(payloads: Sequence[Any]) -> Tensor:
    if len(payloads) == 1:
        return pixels_of(payloads[0])[None]
    return torch.stack([*_decoders.map(pixels_of, payloads)])


def labels_out(rows: Tensor) -> list[Any]:
    best = rows.float().softmax(dim=-1).topk(TOP_K)
    return [
        [
            {"label": str(index), "index": index, "score": score}
            for index, score in zip(indices, scores, strict=True)
        ]
        for indices, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Workload:
    """A model, and the way from payloads to its input and from its rows to what is answered."""

    name: str
    model: Callable[[], nn.Module]
    collate: Callable[[Sequence[Any]], Tensor]
    encode: Callable[[Tensor], list[Any]]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("tiny", tiny, numbers_in, numbers_out),
        Workload("mlp", mlp, numbers_in, numbers_out),
        Workload("image", image, images_in, labels_out),
    )
}


class Service:
    """A workload as a process serves it: payloads in, what is answered out.

    Args:
        workload: which one.
        tuned: in `TUNED_PRECISION`, `channels_last` and compiled with frozen weights, as `tune`
            would have it.
    """

    def __init__(self, workload: Workload, *, tuned: bool = False) -> None:
        self._workload = workload
        self._tuned = tuned
        self._model = _tune(workload.model()) if tuned else workload.model()
        self._passes = Passes()

    def __call__(self, payloads: Sequence[Any]) -> list[Any]:
        """Answer a batch of payloads in one forward pass."""
        return self._workload.encode(self.forward(self._workload.collate(payloads)))

    def forward(self, batch: Tensor) -> Tensor:
        """Return the rows for a batch of what the model takes."""
        self._passes.count(len(batch))
        with torch.inference_mode():
            rows: Tensor = self._model(_padded(batch) if self._tuned else batch)
        return rows[: len(batch)]


def service() -> Service:
    """Return what this process is to serve, as its environment says."""
    torch.set_num_threads(int(os.environ[THREADS]))
    return Service(WORKLOADS[os.environ[WORKLOAD]], tuned=TUNED in os.environ)


def _tune(model: nn.Module) -> nn.Module:
    from torch._inductor import config  # noqa: PLC0415 - it takes seconds

    config.freezing = config.cpp_wrapper = True
    config.size_asserts = config.alignment_asserts = False
    laid_out = model.to(TUNED_DTYPE).to(memory_format=torch.channels_last)
    compiled: Any = torch.compile(laid_out, dynamic=False)
    with torch.inference_mode():
        for size in _tuned_sizes():
            compiled(_padded(torch.zeros(size, 3, CROP, CROP)))
    tuned: nn.Module = compiled
    return tuned


def _tuned_sizes() -> list[int]:
    return [1, *range(2, TUNED_BATCH + 1, 2)]


def _padded(batch: Tensor) -> Tensor:
    """Fill a batch up to the next size that was compiled, in the precision that was."""
    wanted = next(size for size in _tuned_sizes() if size >= len(batch))
    filled = torch.cat([batch, batch.new_zeros(wanted - len(batch), *batch.shape[1:])])
    return filled.to(dtype=TUNED_DTYPE, memory_format=torch.channels_last)

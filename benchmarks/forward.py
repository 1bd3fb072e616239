"""What a forward pass takes, in ms per item, by how the model is run; and what comes before it.

    python benchmarks/forward.py [--threads N] [--sizes 1,4] [--variants compile,…] [SOURCE]

Variants run in turn, and each is told as the median of its ratios to the plain one, so that a busy
machine disturbs all alike. On one thread CPU time is counted, which others on the machine change
least. The answers' largest difference from the plain ones is a share of the largest number in them.
"""

import argparse
import io
import logging
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from batchserve.memory import use_huge_pages

use_huge_pages()

import pybase64  # noqa: E402
import skimage.data  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from batchserve.config import ImageConfig, ModelConfig  # noqa: E402
from batchserve.loading import DTYPES, load_module, place_module  # noqa: E402
from batchserve.runners.comparison import largest_difference, largest_number  # noqa: E402
from batchserve.runners.folding import fold_batch_norms  # noqa: E402
from batchserve.runners.forward import Forward  # noqa: E402
from batchserve.runners.reproducible import like  # noqa: E402
from batchserve.tasks import build_task, jpeg  # noqa: E402
from batchserve.tasks.image_classification import ImageClassification  # noqa: E402

VARIANTS: dict[str, dict[str, object]] = {
    "plain": {"channels_last": False},
    "channels_last": {"channels_last": True},
    "folded": {"channels_last": True, "fold_batch_norms": True},
    "compile": {"channels_last": False, "compile": True},
    "compile+channels_last": {"channels_last": True, "compile": True},
    "bf16+channels_last": {"channels_last": True, "precision": "bf16"},
    "bf16+compile": {"channels_last": True, "precision": "bf16", "compile": True},
}
ROUNDS = 7


def forward_of(source: str, variant: dict[str, object], threads: int) -> Forward:
    torch.manual_seed(0)
    described = {"name": "model", "source": source, "task": "image-classification"}
    config = ModelConfig.model_validate({**described, "fold_batch_norms": False, **variant})
    module = load_module(config)
    task = build_task(config, module)
    if config.fold_batch_norms:
        fold_batch_norms(module, task)
    module = place_module(module, config, torch.device("cpu"))
    forward = Forward(
        module, task, torch.device("cpu"), DTYPES[config.precision], threads=threads,
        channels_last=bool(config.channels_last),
    )  # fmt: skip
    forward.compile_what_comes()
    return forward


def seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    started_s = clock()
    function()
    return clock() - started_s


def passes(source: str, names: list[str], sizes: list[int], threads: int) -> Table:
    clock = time.process_time if threads == 1 else time.perf_counter
    forwards = {name: forward_of(source, VARIANTS[name], threads) for name in ["plain", *names]}
    items = like(torch.zeros(224, 224, 3, dtype=torch.uint8), max(sizes))
    table = Table("batch", *forwards, title=f"{source}, {threads} threads: ms per item, ratio")
    for size in sizes:
        batch = items[:size]
        rows = {name: forward(batch) for name, forward in forwards.items()}
        rounds = [
            {name: seconds(partial(forward, batch), clock) for name, forward in forwards.items()}
            for _ in range(ROUNDS)
        ]
        cells = []
        for name in forwards:
            each_ms = 1000 * min(one[name] for one in rounds) / size
            ratio = median(one["plain"] / one[name] for one in rounds)
            differs = largest_difference(rows[name], rows["plain"]) / largest_number(rows["plain"])
            cells.append(f"{each_ms:.1f}, {ratio:.2f}×, ±{differs:.0e}")
        table.add_row(str(size), *cells)
    return table


def stages() -> Table:
    """Of one photo of about 40 KB and 500 × 400 pixels, on one thread."""
    file = io.BytesIO()
    cat = skimage.data.chelsea()  # type: ignore[no-untyped-call]
    Image.fromarray(cat).resize((500, 400)).save(file, "JPEG", quality=88)
    data = file.getvalue()
    text = pybase64.b64encode(data).decode()
    task = ImageClassification(ImageConfig())
    image = Image.open(io.BytesIO(data))
    pixels = jpeg.decoded(data, image, 512)
    assert pixels is not None
    items = like(torch.zeros(224, 224, 3, dtype=torch.uint8), 8)
    batch = task.collate(items)
    torch.set_num_threads(1)
    found = {
        "decode, in all": lambda: task.decode(text),
        "· base64": lambda: pybase64.b64decode(text, validate=True),
        "· JPEG to pixels": lambda: jpeg.decoded(data, image, 512),
        "· resize and crop": lambda: jpeg.resize_and_crop(pixels, 256, 224, "bilinear"),
        "collate 8, each": lambda: task.collate(items),
        "normalise 8, each": lambda: task.preprocess(batch),
    }
    table = Table("stage", "µs per image", title=f"a JPEG file of {len(data)} bytes")
    for name, function in found.items():
        took_s = median(seconds(function, time.process_time) for _ in range(50))
        table.add_row(name, f"{1e6 * took_s / (8 if 'each' in name else 1):.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", nargs="?", default="torchvision:resnet18")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", default="1,2,4,8,16")
    parser.add_argument("--variants", default="channels_last,compile+channels_last")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    sizes = [int(size) for size in arguments.sizes.split(",")]
    console = Console(width=140)
    with torch.inference_mode():
        console.print(stages())
        names = arguments.variants.split(",")
        console.print(passes(arguments.source, names, sizes, arguments.threads))


if __name__ == "__main__":
    main()

"""Inputs of each workload, and the answers that the model itself gives to them."""

import base64
import io
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import v2

from comparison.workloads import CROP, MEAN, RESIZE, STD, WORKLOADS, Workload

# Between neighbours in a batch, sums are rounded differently.
NUMBERS_TOLERANCE = 1e-4
SCORES_TOLERANCE = 1e-3
TUNED_TOLERANCE = 0.02
PHOTOS = ("coffee", "astronaut", "chelsea", "rocket")
QUALITY = 75
SHAPES = {"tiny": (10,), "mlp": (784,)}


def payloads(workload: str) -> list[Any]:
    """Return four inputs, as they stand in the JSON; the first is what the load consists of."""
    if workload == "image":
        return [_photo(name) for name in PHOTOS]
    rng = np.random.default_rng(0)
    shape = SHAPES[workload]
    return [rng.normal(size=shape).round(4).tolist() for _ in PHOTOS]


def _photo(name: str) -> str:
    """Return a JPEG in base64: that of `coffee`, 600×400, has 41 KB."""
    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, "JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _pixels_of_tensor(payload: str) -> torch.Tensor:
    """Return what `pixels_of` does, as torchvision makes it of a tensor and not by Pillow.

    Pixels differ in the last of 8 bits, here and there.
    """
    photo = Image.open(io.BytesIO(base64.b64decode(payload))).convert("RGB")
    steps = [
        *(v2.PILToTensor(), v2.Resize(RESIZE), v2.CenterCrop(CROP)),
        *(v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)),
    ]
    pixels: torch.Tensor = v2.Compose(steps)(photo)
    return pixels


class Reference:
    """What a workload's model answers to its payloads, one at a time.

    To an image it has two answers: torchvision resizes images, and tensors, each in its own way.
    """

    def __init__(self, workload: str) -> None:
        self._workload: Workload = WORKLOADS[workload]
        self.payloads = payloads(workload)
        model = self._workload.model()
        with torch.inference_mode():
            # Of each payload, the rows that are right.
            self._rows = [[model(self._workload.collate([payload]))] for payload in self.payloads]
            if workload == "image":
                for rows, payload in zip(self._rows, self.payloads, strict=True):
                    rows.append(model(_pixels_of_tensor(payload)[None]))
        self.outputs = [self._workload.encode(rows[0])[0] for rows in self._rows]

    def difference(self, place: int, output: Any) -> float:
        """Return how far an output is from the model's: of numbers, or of scores.

        Raises:
            ValueError: it has not the form that it should have.
        """
        try:
            return min(self._difference(place, output, row[0]) for row in self._rows[place])
        except (TypeError, KeyError, RuntimeError, IndexError) as error:
            raise ValueError(f"{str(output)[:200]}: {error}") from error

    def _difference(self, place: int, output: Any, row: torch.Tensor) -> float:
        if self._workload.name != "image":
            return float((torch.tensor(output) - row).abs().max())
        scores = row.softmax(dim=-1)
        if len(output) != len(self.outputs[place]):
            raise ValueError("wrong number of labels")
        return float(max(abs(one["score"] - float(scores[one["index"]])) for one in output))

    def tolerance(self, *, tuned: bool) -> float:
        if self._workload.name != "image":
            return NUMBERS_TOLERANCE
        return TUNED_TOLERANCE if tuned else SCORES_TOLERANCE

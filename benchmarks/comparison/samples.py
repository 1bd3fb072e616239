"""Inputs of each workload, and the answers that the model itself gives to them."""

import base64
import io
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image

from comparison.workloads import WORKLOADS, Workload

# Between neighbours in a batch, sums are rounded differently.
NUMBERS_TOLERANCE = 1e-4
# Of a network that nobody trained, which a last bit of a pixel moves: ours has torchvision resize
# 8-bit images where the reference has Pillow do it, and differs by 0.0011.
SCORES_TOLERANCE = 2e-3
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


class Reference:
    """What a workload's model answers to its payloads, one at a time."""

    def __init__(self, workload: str) -> None:
        self._workload: Workload = WORKLOADS[workload]
        self.payloads = payloads(workload)
        model = self._workload.model()
        with torch.inference_mode():
            self._rows = [model(self._workload.collate([payload])) for payload in self.payloads]
        self.outputs = [self._workload.encode(rows)[0] for rows in self._rows]

    def difference(self, place: int, output: Any) -> float:
        """Return how far an output is from the model's: of numbers, or of scores.

        Raises:
            ValueError: it has not the form that it should have.
        """
        rows = self._rows[place][0]
        try:
            if self._workload.name != "image":
                return float((torch.tensor(output) - rows).abs().max())
            scores = rows.softmax(dim=-1)
            if len(output) != len(self.outputs[place]):
                raise ValueError("wrong number of labels")
            return float(max(abs(one["score"] - float(scores[one["index"]])) for one in output))
        except (TypeError, KeyError, RuntimeError, IndexError) as error:
            raise ValueError(f"{str(output)[:200]}: {error}") from error

    def tolerance(self, *, tuned: bool) -> float:
        if self._workload.name != "image":
            return NUMBERS_TOLERANCE
        return TUNED_TOLERANCE if tuned else SCORES_TOLERANCE

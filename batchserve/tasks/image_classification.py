"""An image in, labels with scores out."""

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field

from batchserve.config import ImageConfig, ModelConfig
from batchserve.errors import InvalidInput, LoadError
from batchserve.tasks import image as images
from batchserve.tasks import jpeg
from batchserve.tasks.base import Parameters, Task
from batchserve.tasks.payloads import elements_of
from batchserve.tasks.tensors import INPUT, ONE_OF_BYTES, TensorSpec, datatype_of

# float32 has no more.
SCORE_DIGITS = 7


class Prediction(BaseModel):
    """One label with its score."""

    label: str = Field(examples=["espresso"])
    index: int = Field(description="The class's number.", examples=[967])
    score: float = Field(description="Softmax over all classes.", examples=[0.957])


class TopK(Parameters):
    """How many predictions to answer with."""

    top_k: int = Field(5, ge=1, description="Predictions in the answer, best first.")


class ImageClassification(Task):
    """Image files, raw or in base64, to the best labels.

    An item is uint8 of shape (crop, crop, 3). It is normalised once per batch, on the device.

    Args:
        config: resize, crop, mean, std and the limit of megapixels.
        labels: one for each class, or None: then its number is its name.

    Raises:
        LoadError: the crop is larger than what is resized to.
    """

    Input: ClassVar[Any] = Annotated[
        str, Field(description="An image file in base64, or a data: URL.")
    ]
    Output: ClassVar[Any] = list[Prediction]
    Parameters: ClassVar[type[BaseModel]] = TopK
    media_types: ClassVar[tuple[str, ...]] = ("image/*", "application/octet-stream")
    finite_rows: ClassVar[bool] = True

    def __init__(self, config: ImageConfig, labels: list[str] | None = None) -> None:
        if config.crop > config.resize:
            raise LoadError(
                f"image.crop ({config.crop}) does not fit in image.resize ({config.resize}); lower "
                f"the one or raise the other"
            )
        self._config = config
        self._labels = labels
        self._resample = Image.Resampling[config.interpolation.upper()]
        # (pixel / 255 - mean) / std, as one multiplication and one addition.
        mean, std = torch.tensor(config.mean), torch.tensor(config.std)
        self._scale = 1 / (255 * std)
        self._shift = -mean / std
        self._for_rows: dict[tuple[torch.device, int], tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def from_config(cls, config: ModelConfig, module: torch.nn.Module) -> Self:
        stated = config.image.model_dump(exclude_unset=True)
        return cls(ImageConfig(**{**_preset(config), **stated}), _labels(config))

    @property
    def labels(self) -> list[str] | None:
        return self._labels

    @property
    def fixed_shape(self) -> bool:
        return True

    def decode(self, payload: str | bytes) -> torch.Tensor:
        """Return uint8 of shape (crop, crop, 3).

        Raises:
            InvalidInput: not base64, not an image, or a damaged one.
            TooLarge: more than `max_megapixels`.
        """
        data = images.from_base64(payload) if isinstance(payload, str) else payload
        image = images.open_image(data, self._config.max_megapixels)
        resize, crop = self._config.resize, self._config.crop
        # Twice the size that is needed leaves the resizing its own filter.
        least = 2 * resize
        if self._config.interpolation != "nearest":
            usual = jpeg.decoded(data, image, least)
            if usual is not None:
                return jpeg.resize_and_crop(usual, resize, crop, self._config.interpolation)
        image.draft("RGB", (least, least))
        pixels = images.resize_and_crop(images.upright_rgb(image), resize, crop, self._resample)
        return torch.from_numpy(np.array(pixels))

    def input_specs(self) -> tuple[TensorSpec, ...]:
        return (ONE_OF_BYTES,)

    def payloads(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Sequence[Any]:
        """Return files to decode, from BYTES; or items, if the client has done that itself.

        Those are pixels, UINT8 of shape (n, crop, crop, 3), or what the model shall see, floats of
        shape (n, 3, crop, crop), already normalised.

        Raises:
            InvalidInput: anything else, or floats that are not finite.
        """
        array = tensors[INPUT]
        if array.dtype == object:
            return elements_of(array)
        crop = self._config.crop
        if array.dtype == np.uint8 and array.shape[1:] == (crop, crop, 3):
            return list(torch.from_numpy(array.copy()))
        if array.dtype.kind != "f" or array.shape[1:] != (3, crop, crop):
            raise InvalidInput(
                f"{datatype_of(array.dtype)} of shape {[*array.shape]} are no images; send files "
                f"as BYTES of shape [n], pixels as UINT8 of shape [n, {crop}, {crop}, 3], or what "
                f"is normalised already as FP32 of shape [n, 3, {crop}, {crop}]"
            )
        with np.errstate(over="ignore"):
            planes = array.astype(np.float32)
        if not np.isfinite(planes).all():
            raise InvalidInput("the images must be finite; something in them is NaN or infinite")
        return list(torch.from_numpy(planes))

    def preprocess(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise: uint8 (n, crop, crop, 3) to float32 (n, 3, crop, crop); floats stay as is."""
        if batch.is_floating_point():
            return batch
        scale, shift = self._for_row(batch.device, batch.shape[2])
        rows = batch.to(torch.float32).view(-1, len(scale)).mul_(scale).add_(shift)
        # Still pixel by pixel in memory: the forward pass has it as the module wants it.
        return rows.view(batch.shape).permute(0, 3, 1, 2)

    def postprocess(self, output: Any) -> Any:
        """Scores: (n, classes) logits to softmax in float32."""
        return torch.softmax(output.float(), dim=-1)

    def encode(self, row: torch.Tensor, parameters: TopK) -> list[dict[str, Any]]:
        """Return the best predictions, best first.

        Raises:
            ValueError: the model's number of classes is not that of the labels.
        """
        if row.ndim != 1 or (self.labels is not None and len(self.labels) != row.numel()):
            labels = "" if self.labels is None else f", and there are {len(self.labels)} labels"
            raise ValueError(
                f"the model answers with shape {list(row.shape)}{labels}; image-classification "
                f"needs one score for each class, and a label for each or none"
            )
        best = torch.topk(row, min(parameters.top_k, row.numel()))
        return [
            {"label": self._label(index), "index": index, "score": round(score, SCORE_DIGITS)}
            for index, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def example(self) -> torch.Tensor:
        return torch.zeros(self._config.crop, self._config.crop, 3, dtype=torch.uint8)

    def _for_row(self, device: torch.device, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and shift for a row of pixels; broadcasting three numbers takes longer."""
        # Kept, as the device would have to be waited for to copy them.
        if (device, width) not in self._for_rows:
            scale, shift = self._scale.repeat(width), self._shift.repeat(width)
            self._for_rows[device, width] = scale.to(device), shift.to(device)
        return self._for_rows[device, width]

    def _label(self, index: int) -> str:
        return str(index) if self.labels is None else self.labels[index]


def _preset(config: ModelConfig) -> dict[str, Any]:
    weights = _torchvision_weights(config)
    if weights is None:
        return {}
    transform = weights.transforms()
    if type(transform).__name__ != "ImageClassification":
        raise LoadError(f"torchvision's model {config.source} does not classify images")
    return {
        "resize": transform.resize_size[0],
        "crop": transform.crop_size[0],
        "interpolation": transform.interpolation.value,
        "mean": transform.mean,
        "std": transform.std,
    }


def _torchvision_weights(config: ModelConfig) -> Any:
    """Return torchvision's entry for the model's weights, whose pixels all of them share."""
    kind, _, name = config.source.partition(":")
    if kind != "torchvision":
        return None
    from torchvision.models import get_model_weights  # noqa: PLC0415 - 2 s that few models need

    known = get_model_weights(name)
    return known[config.weights] if config.weights in known.__members__ else known["DEFAULT"]


def _labels(config: ModelConfig) -> list[str] | None:
    if isinstance(config.labels, list):
        return config.labels
    if config.labels == "imagenet":
        return imagenet_labels()
    if config.labels is not None:
        return _read_labels(Path(config.labels))
    if config.weights is not None and "/" not in config.weights:
        weights = _torchvision_weights(config)
        return None if weights is None else list(weights.meta["categories"])
    return None


@cache
def imagenet_labels() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, which torchvision carries."""
    from torchvision.models import ResNet18_Weights  # noqa: PLC0415 - as above

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def _read_labels(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return text.splitlines()
        labels = json.loads(text)
        if not (isinstance(labels, list) and all(isinstance(one, str | int) for one in labels)):
            raise ValueError("it must hold a list of names")
        return [str(label) for label in labels]
    except (OSError, ValueError) as error:
        near = difflib.get_close_matches(path.name, ["imagenet"], n=1)
        hint = "; did you mean imagenet?" if near else ""
        raise LoadError(f"labels: {path} cannot be read: {error}{hint}") from error

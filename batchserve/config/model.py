"""Where a model comes from, what it takes, and how it is run."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from batchserve.config.section import Section, Text, beside_the_config
from batchserve.urls import is_safe, is_url, shown

# What is imported; with a slash, or a dot after the colon, it is a path.
IMPORTED = re.compile(r"[^/:]*:[^/:.]*")


class BatchingConfig(Section):
    """When a batch is closed, and how many may wait."""

    max_batch_size: int | None = Field(
        None,
        ge=1,
        description="N: items in one forward pass, at most; null: found at warm-up, as large as "
        "pays, at most 256.",
    )
    max_wait_ms: float = Field(
        2, ge=0, description="T: how long an item may wait in the queue for company."
    )
    policy: Literal["fixed", "adaptive"] = Field(
        "adaptive",
        description="fixed: exactly N and T. adaptive: never waits for company that cannot come.",
    )
    max_queue_size: int = Field(256, ge=1, description="Items that may wait; more get 503.")

    @model_validator(mode="after")
    def _a_batch_fits_in_the_queue(self) -> "BatchingConfig":
        if self.max_batch_size is not None and self.max_queue_size < self.max_batch_size:
            raise ValueError(
                f"max_queue_size ({self.max_queue_size}) is below max_batch_size "
                f"({self.max_batch_size}): no batch could ever be full; raise the one or lower "
                f"the other"
            )
        return self


class ImageConfig(Section):
    """How an image becomes the model's input: resize, centre crop, normalise.

    For `torchvision:NAME`, keys that are left out are what torchvision says of the model.
    """

    resize: int = Field(256, ge=1, description="Length of the shorter side, in pixels.")
    crop: int = Field(224, ge=1, description="Side of the square cut from the centre.")
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    max_megapixels: float = Field(
        50, gt=0, description="An image with more pixels gets 413 before it is decoded."
    )

    @field_validator("std")
    @classmethod
    def _std_divides(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("each of the three must be above 0, because pixels are divided by it")
        return std


class CandidateConfig(Section):
    """How a version is tried beside the current one."""

    share: float = Field(
        0,
        ge=0,
        le=1,
        strict=True,
        description="Of the requests that name no version, this part gets its answers.",
    )
    shadow: bool = Field(
        False,
        strict=True,
        description="It gets copies of requests when nothing else is to be computed; its answers "
        "are compared with those that were given.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "CandidateConfig":
        if not {"share", "shadow"} & self.model_fields_set:
            raise ValueError("state share, from 0 to 1, or shadow: true, or both")
        return self


def is_path(source: str) -> bool:
    """Whether a source is a file, here or at a URL, and no name to import."""
    return IMPORTED.fullmatch(source) is None


def _resolve_source(source: str, info: ValidationInfo) -> str:
    if is_url(source) and not is_safe(source):
        raise ValueError(
            f"{shown(source)} is no safe place for a model: write https://…, or fetch the file and "
            f"write its path"
        )
    if is_url(source) or not is_path(source):
        return source
    return beside_the_config(source, info)


def _resolve_weights(weights: str, info: ValidationInfo) -> str:
    # torchvision's names of weights are constants: DEFAULT, IMAGENET1K_V2.
    is_name = weights.replace("_", "").isalnum() and weights.isupper()
    return weights if is_name else beside_the_config(weights, info)


def _resolve_labels(labels: str | list[str], info: ValidationInfo) -> str | list[str]:
    return (
        labels
        if isinstance(labels, list) or labels == "imagenet"
        else (beside_the_config(labels, info))
    )


def _lower(digest: Any) -> Any:
    return digest.lower() if isinstance(digest, str) else digest


def _names(labels: Any) -> Any:
    # Before the union, which would name keys that do not exist: labels.str, labels.list[str].
    if not (labels is None or isinstance(labels, str | list)):
        raise ValueError("write imagenet, a path, or a list of names")
    return labels


class ModelConfig(Section):
    """One version of one model: where it comes from, what it takes, how it is run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: str = Field(
        min_length=1,
        description="torchvision:NAME, package.module:callable, or a file: its path, or https://…",
    )
    entry: str | None = Field(
        None, description="For a zip of a project: module:callable, which makes the model."
    )
    sha256: Annotated[str | None, BeforeValidator(_lower)] = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Of the file; another one is not served."
    )
    architecture: str | None = Field(
        None, description="For a state_dict: torchvision:NAME or package.module:callable."
    )
    weights: str | None = Field(
        None, description="For torchvision: DEFAULT or another name, a path, or null for random."
    )
    trust: bool = Field(
        False,
        description="Load a pickled module, a torch.export program or an AOTInductor package, "
        "which can run any code that the file holds.",
    )
    version: Text = Field("1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: str = Field(
        "tensor", description="tensor, image-classification, or package.module:Class."
    )
    labels: Annotated[str | list[str] | None, BeforeValidator(_names)] = Field(
        None, description="imagenet, the path of a text file with a label a line, or a list."
    )
    image: ImageConfig = ImageConfig()
    input_shape: tuple[int, ...] | None = Field(
        None,
        description="For tensor: the shape of one item, -1 where it varies; null: found out from "
        "the first layer where that is a Linear.",
    )
    input_dtype: Literal["float32", "int64", "int32", "uint8", "bool"] = "float32"
    slo_ms: float | None = Field(
        None,
        gt=0,
        description="The promise: answers come within it, or the request is refused on arrival.",
    )
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantize: Literal["int8-dynamic", "int8-weight-only"] | None = Field(
        None, description="Linear layers in int8; answers differ a little, as check reports."
    )
    channels_last: bool | None = Field(
        None,
        description="Images lie in memory pixel by pixel; null: where that is faster, as a trial "
        "at warm-up tells.",
    )
    fold_batch_norms: bool = Field(
        True,
        description="Convolutions do what batch norms do after them, where a trial shows that the "
        "answers stay the same but for rounding.",
    )
    parallel_batches: bool | None = Field(
        None,
        description="On a CPU, several batches are computed at the same time, each on cores of its "
        "own, where a trial at warm-up shows that it is no slower; null: only if the model is made "
        "of torch's and torchvision's modules, which can be called from several threads at once.",
    )
    compile: bool = False
    cuda_graphs: bool = Field(
        False,
        description="On CUDA, passes are recorded once for each batch size, and launched whole, "
        "where a trial at warm-up shows that this is faster.",
    )
    autotune: bool = Field(
        False,
        description="At start, tries what keeps the answers: numbers of threads, and what is "
        "compiled already.",
    )
    reproducible: bool = Field(
        False,
        description="Pads every batch to max_batch_size, so that an answer is the same to the bit "
        "whichever neighbours it travelled with.",
    )
    batching: BatchingConfig = BatchingConfig()
    candidate: CandidateConfig | None = Field(
        None, description="Tried beside the current version, which is the first of its name."
    )

    @property
    def key(self) -> str:
        """Name and version, for logs and wherever one text must do."""
        return f"{self.name}:{self.version}"

    @property
    def max_wait_s(self) -> float:
        """T; infinity: a promise alone decides how long waiting pays."""
        if self.slo_ms is not None and "max_wait_ms" not in self.batching.model_fields_set:
            return math.inf
        return self.batching.max_wait_ms / 1000

    @model_validator(mode="after")
    def _padding_has_a_size(self) -> "ModelConfig":
        if self.reproducible and self.batching.max_batch_size is None:
            raise ValueError(
                "reproducible: true pads every batch to batching.max_batch_size, which is not "
                "stated; state it"
            )
        return self

    @model_validator(mode="after")
    def _what_is_tried_may_differ(self) -> "ModelConfig":
        if self.reproducible and self.autotune:
            raise ValueError(
                "autotune: true chooses by measurement, and reproducible: true allows no other "
                "choice at the next start; leave out one of them"
            )
        return self

    @field_validator("device")
    @classmethod
    def _device_is_one(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError("write auto, cpu, cuda, cuda:N or mps")
        return device

    @field_validator("architecture")
    @classmethod
    def _architecture_is_imported(cls, architecture: str | None) -> str | None:
        if architecture is not None and ":" not in architecture:
            raise ValueError(f"write torchvision:{architecture} or package.module:{architecture}")
        return architecture

    @field_validator("entry")
    @classmethod
    def _entry_is_imported(cls, entry: str | None) -> str | None:
        if entry is not None and not re.fullmatch(r"(?!.*\.py:)\w+(\.\w+)*:\w+", entry):
            raise ValueError("write module:callable, as in model:build for build in model.py")
        return entry

    @model_validator(mode="after")
    def _only_files_have_these(self) -> "ModelConfig":
        for key in ("sha256", "entry"):
            if getattr(self, key) is not None and not is_path(self.source):
                raise ValueError(
                    f"{key} is of a file, and source {self.source!r} is none; leave it out"
                )
        return self

    @field_validator("source")
    @classmethod
    def _source_path(cls, source: str, info: ValidationInfo) -> str:
        return _resolve_source(source, info)

    @field_validator("weights")
    @classmethod
    def _weights_path(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights is not None and is_url(weights):
            raise ValueError(
                "a URL goes into source, and what its weights belong in into architecture"
            )
        return None if weights is None else _resolve_weights(weights, info)

    @field_validator("labels")
    @classmethod
    def _labels_path(
        cls, labels: str | list[str] | None, info: ValidationInfo
    ) -> str | list[str] | None:
        return None if labels is None else _resolve_labels(labels, info)

    @field_validator("input_shape")
    @classmethod
    def _shape_is_a_shape(cls, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if shape and any(size < 1 and size != -1 for size in shape):
            raise ValueError("each size is 1 or more, or -1 where it varies")
        return shape

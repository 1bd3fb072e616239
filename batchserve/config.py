"""The configuration: one YAML file and the environment, read once at the edge.

Everything below the edge gets these typed, frozen values. Paths are relative to the file's folder.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from batchserve.errors import ConfigError

ENV_PREFIX = "BATCHSERVE_"
ENV_CONFIG = "BATCHSERVE_CONFIG"
ENV_VALID = "BATCHSERVE_VALID_CONFIG"
# What Kubernetes sets in each pod for a service that is named batchserve.
KUBERNETES = re.compile(r"BATCHSERVE_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_\w+)?)$").match
DEFAULT_CONFIG = "config.yaml"


class Section(BaseModel):
    """A part of the configuration: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, section: Any) -> Any:
        # YAML reads a section whose keys are all commented out as null.
        return {} if section is None else section


class ServerConfig(Section):
    """How the server listens, logs and bounds what it accepts."""

    bind: str = Field("127.0.0.1:8000", description="host:port, or unix:PATH")
    workers: int = Field(1, ge=1, description="Processes, each with the models of its own.")
    accesslog: str | None = Field("-", description="'-' is standard output; a path; or null.")
    errorlog: str = Field("-", description="'-' is standard error, or a path.")
    max_body_mb: float = Field(16, gt=0, description="A larger request body gets 413.")
    default_timeout_ms: float = Field(
        30_000, gt=0, description="An answer by then, or 504; a request may name its own."
    )
    drain_seconds: float = Field(
        10, ge=0, description="How long a stop waits for what was accepted."
    )
    torch_threads: int | None = Field(
        None, ge=1, description="Per worker, for one forward pass; null: cores ÷ workers."
    )
    decode_threads: int | None = Field(
        None, ge=1, description="Per worker, for decoding inputs; null: cores ÷ workers."
    )
    admin_token: None = Field(None, description="Reserved: there is no administration yet.")

    @field_validator("bind", mode="before")
    @classmethod
    def _bind_is_an_address(cls, stated: object) -> str:
        bind = str(stated)
        if bind.startswith("unix:") and len(bind) > len("unix:"):
            return bind
        host, colon, port = bind.rpartition(":")
        if not (host and colon and port.isdecimal() and int(port) < 2**16):
            raise ValueError("write host:port, as in 127.0.0.1:8000, or unix:PATH")
        return bind

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 2**20)

    @property
    def threads_of_forward(self) -> int:
        """Torch's intra-op threads in each worker."""
        return self.torch_threads or self._cores_per_worker

    @property
    def threads_of_decoding(self) -> int:
        return self.decode_threads or self._cores_per_worker

    @property
    def _cores_per_worker(self) -> int:
        # More threads than cores cost more than they give: every worker gets its share.
        return max(1, _cores() // self.workers)


def _cores() -> int:
    # macOS knows no affinity.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class BatchingConfig(Section):
    """When a batch is closed, and how many may wait."""

    max_batch_size: int = Field(16, ge=1, description="N: items in one forward pass, at most.")
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
        if self.max_queue_size < self.max_batch_size:
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


def _beside_the_config(path: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder", Path())
    return str(folder / Path(path).expanduser())


def _resolve_source(source: str, info: ValidationInfo) -> str:
    return source if ":" in source else _beside_the_config(source, info)


def _resolve_weights(weights: str, info: ValidationInfo) -> str:
    # torchvision's names of weights are constants: DEFAULT, IMAGENET1K_V2.
    is_name = weights.replace("_", "").isalnum() and weights.isupper()
    return weights if is_name else _beside_the_config(weights, info)


def _resolve_labels(labels: str | list[str], info: ValidationInfo) -> str | list[str]:
    return (
        labels
        if isinstance(labels, list) or labels == "imagenet"
        else (_beside_the_config(labels, info))
    )


def _text(version: Any) -> Any:
    # YAML reads `version: 1` as a number, which nobody means.
    is_number = isinstance(version, int | float) and not isinstance(version, bool)
    return str(version) if is_number else version


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
        description="torchvision:NAME, package.module:callable, or the path of a .pt or .pth file.",
    )
    architecture: str | None = Field(
        None, description="For a state_dict: torchvision:NAME or package.module:callable."
    )
    weights: str | None = Field(
        None, description="For torchvision: DEFAULT or another name, a path, or null for random."
    )
    trust: bool = Field(
        False, description="Unpickle a whole module, which can run any code that the file holds."
    )
    version: Annotated[str, BeforeValidator(_text)] = Field(
        "1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
    )
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
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    batching: BatchingConfig = BatchingConfig()

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

    @field_validator("source")
    @classmethod
    def _source_path(cls, source: str, info: ValidationInfo) -> str:
        return _resolve_source(source, info)

    @field_validator("weights")
    @classmethod
    def _weights_path(cls, weights: str | None, info: ValidationInfo) -> str | None:
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


class Config(Section):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    models: list[ModelConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _waits_end_before_deadlines(self) -> "Config":
        for number, model in enumerate(self.models):
            if model.batching.max_wait_ms >= self.server.default_timeout_ms:
                raise ValueError(
                    f"models.{number}.batching.max_wait_ms ({model.batching.max_wait_ms:g}) is not "
                    f"below server.default_timeout_ms ({self.server.default_timeout_ms:g}): "
                    f"whoever waits so long gets 504"
                )
        return self

    @model_validator(mode="after")
    def _versions_are_distinct(self) -> "Config":
        seen: set[tuple[str, str]] = set()
        for model in self.models:
            if (model.name, model.version) in seen:
                raise ValueError(
                    f"models: {model.name!r} version {model.version!r} is listed twice; give one "
                    f"of them another name or version"
                )
            seen.add((model.name, model.version))
        return self


def valid_config(environ: Mapping[str, str]) -> Config:
    """Return the config that the server runs with.

    That is the one which Gunicorn's master has found valid and put into `BATCHSERVE_VALID_CONFIG`;
    the file may have been changed since, for the next reload. Without it, the file is read.

    Raises:
        ConfigError: it is wrong.
    """
    if ENV_VALID in environ:
        return Config.model_validate_json(environ[ENV_VALID])
    return read_config(config_path(environ), environ)


def config_path(environ: Mapping[str, str]) -> Path:
    """Return the file that `BATCHSERVE_CONFIG` names, config.yaml otherwise."""
    return Path(environ.get(ENV_CONFIG, DEFAULT_CONFIG))


def read_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read the file, lay the environment over it, and validate.

    Args:
        path: of a YAML file.
        environ: `BATCHSERVE_SERVER__BIND` overrides `server.bind`, `BATCHSERVE_MODELS__0__DEVICE`
            the first model's `device`; values are read as YAML.

    Raises:
        ConfigError: with one line per mistake, naming the key, the value and the fix.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path}; name your config, or start from ours"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if raw is None:
        raise ConfigError(f"{path} is empty; it must hold the key models")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold the keys server and models, not {_short(raw)}")
    _lay_over(raw, environ)
    try:
        return Config.model_validate(raw, context={"folder": path.resolve().parent})
    except ValidationError as error:
        # A union reports one mistake for each of its members.
        lines = list(dict.fromkeys(f"  {_explain(mistake)}" for mistake in error.errors()))
        raise ConfigError("\n".join([f"{path} is not a valid configuration:", *lines])) from None


# pydantic-settings does as much for mappings, but cannot address the elements of a list.
def _lay_over(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in (ENV_CONFIG, ENV_VALID):
            continue
        if KUBERNETES(variable):
            continue
        *parents, last = variable.removeprefix(ENV_PREFIX).lower().split("__")
        value = _value(variable, environ[variable])
        node: Any = raw
        try:
            for key in parents:
                if not isinstance(node, list) and node.get(key) is None:
                    node[key] = {}
                node = node[int(key) if isinstance(node, list) else key]
            node[int(last) if isinstance(node, list) else last] = value
        except (AttributeError, IndexError, TypeError, ValueError):
            raise ConfigError(
                f"the environment variable {variable} names no place in the configuration; "
                f"write {ENV_PREFIX}SERVER__BIND or {ENV_PREFIX}MODELS__0__DEVICE"
            ) from None


def _value(variable: str, text: str) -> Any:
    if text == "-":  # to YAML a list of null, to us standard output
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the environment variable {variable} cannot be read as YAML: {text!r}: {error}"
        ) from None


def _explain(mistake: Any) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        *parents, key = mistake["loc"]
        known = _keys_at(parents)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if mistake["type"] == "missing":
        return f"{where}: is missing"
    if where == "server.admin_token":
        return f"{where}: there is no administration yet; leave it out"
    message = mistake["msg"].removeprefix("Value error, ")
    if not where or isinstance(mistake["input"], dict | BaseModel):
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (it is {_short(mistake['input'])})"


def _keys_at(location: list[int | str]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Union, UnionType):
        return next(filter(None, map(_section_in, get_args(annotation))), None)
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004 - fits a terminal's line

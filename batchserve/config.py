"""The configuration as typed, frozen values, which everything below the edge gets.

`config_file.py` reads them. Paths are relative to the file's folder.
"""

import math
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    ValidationInfo,
    field_validator,
    model_validator,
)

from batchserve.addresses import AllowedHosts
from batchserve.cores import usable_cores
from batchserve.urls import is_safe, is_url, shown

# What is imported; with a slash, or a dot after the colon, it is a path.
IMPORTED = re.compile(r"[^/:]*:[^/:.]*")


class Section(BaseModel):
    """A part of the configuration: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a secret; config_file.py shows what is none
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, section: Any) -> Any:
        # YAML reads a section whose keys are all commented out as null.
        return {} if section is None else section


def _beside_the_config(path: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder", Path())
    return str(folder / Path(path).expanduser())


BesideTheConfig = Annotated[str, AfterValidator(_beside_the_config)]
SECRET_LENGTH = 16


def _check_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if len(text) < SECRET_LENGTH or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(
            f"use at least {SECRET_LENGTH} letters, digits or signs, without spaces, as "
            f"`openssl rand -hex 16` prints them"
        )
    return secret


def _quoted(secret: Any) -> Any:
    # YAML reads 0012… and 1e10… as numbers, and other digits come back.
    if isinstance(secret, int | float):
        raise ValueError("write it in quotes; YAML reads it as a number")  # noqa: TRY004
    return secret


def _reveal(secret: SecretStr, info: SerializationInfo) -> str:
    return secret.get_secret_value() if (info.context or {}).get("reveal") else str(secret)


Secret = Annotated[
    SecretStr,
    BeforeValidator(_quoted),
    AfterValidator(_check_secret),
    PlainSerializer(_reveal, when_used="json"),
]
REDIS = ("redis://", "rediss://")


def _address(stated: object) -> str:
    bind = str(stated)
    if bind.startswith("unix:") and len(bind) > len("unix:"):
        return bind
    host, colon, port = bind.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise ValueError("write host:port, as in 127.0.0.1:8000, or unix:PATH")
    return bind


Address = Annotated[str, BeforeValidator(_address)]


class FetchConfig(Section):
    """From where the server may fetch what a client names by its address; by default nowhere."""

    hosts: tuple[str, ...] = Field(
        (), description="Host names; *.DOMAIN for all below one; :PORT for other than 80 and 443."
    )
    networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Private networks in which those hosts may be."
    )
    timeout_ms: float = Field(5000, gt=0, description="For one file, or 504.")

    @field_validator("hosts")
    @classmethod
    def _hosts_are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        normal = tuple(host.lower() for host in hosts)
        try:
            AllowedHosts(normal)
        except ValueError as error:
            raise ValueError(
                f"{error}; write images.example.org, *.example.org or localhost:8080, and letters "
                f"beyond a to z as the DNS does, with xn--"
            ) from None
        return normal


class TlsConfig(Section):
    """Who the server proves to be, where it encrypts."""

    cert: BesideTheConfig = Field(description="A PEM file: the certificate, and those above it.")
    key: BesideTheConfig = Field(description="A PEM file: the certificate's private key.")


class ServerConfig(Section):
    """How the server listens, logs and bounds what it accepts."""

    bind: Address = Field("127.0.0.1:8000", description="host:port, or unix:PATH")
    workers: int = Field(1, ge=1, description="Processes, each with the models of its own.")
    accesslog: str | None = Field("-", description="'-' is standard output; a path; or null.")
    errorlog: str = Field("-", description="'-' is standard error, or a path.")
    log_format: Literal["text", "json"] = Field("text", description="Of both logs: lines, or JSON.")
    max_body_mb: float = Field(16, gt=0, description="A larger request body gets 413.")
    default_timeout_ms: float = Field(
        30_000, gt=0, description="An answer by then, or 504; a request may name its own."
    )
    drain_seconds: float = Field(
        10, ge=0, description="How long a stop waits for what was accepted."
    )
    hang_seconds: float = Field(
        60, gt=0, description="A forward pass that takes longer is hung; the worker is replaced."
    )
    grace_seconds: float = Field(
        1, ge=0, description="How long a stop keeps serving while load balancers look away."
    )
    max_requests: int | None = Field(
        None, ge=1, description="A worker is replaced after so many requests; null: never."
    )
    torch_threads: int | None = Field(
        None, ge=1, description="Per worker, for one forward pass, at most; null: cores ÷ workers."
    )
    decode_threads: int | None = Field(
        None, ge=1, description="Per worker, for decoding inputs; null: cores ÷ workers."
    )
    otel_endpoint: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="Send traces to this OpenTelemetry collector; null: as OTEL_… say.",
    )
    fetch: FetchConfig = FetchConfig()
    admin_token: Secret | None = Field(
        None, description="Who shows it may change what is served; null: nobody may."
    )
    admin_bind: Address | None = Field(
        None, description="An address of its own for that; null: the server's."
    )
    model_folder: BesideTheConfig | None = Field(
        None, description="The folder whose files may be loaded over HTTP; null: none may."
    )
    state: str = Field(
        "batchserve-state.db",
        repr=False,  # an address may hold a password
        description="Where such changes are kept: a file, or redis://HOST:PORT/DATABASE.",
    )
    api_keys: list[Secret] | None = Field(
        None, min_length=1, description="Who shows one may predict; null: everybody may."
    )
    tls: TlsConfig | None = Field(None, description="Certificate and key; null: no encryption.")

    @model_validator(mode="before")
    @classmethod
    def _state_is_beside_the_config(cls, section: Any) -> Any:
        # Defaults are not resolved; without administration it is not used.
        if isinstance(section, dict) and section.get("admin_token") is not None:
            return {"state": cls.model_fields["state"].default, **section}
        return section

    @field_validator("state")
    @classmethod
    def _state_path(cls, state: str, info: ValidationInfo) -> str:
        return state if state.startswith(REDIS) else _beside_the_config(state, info)

    @model_validator(mode="after")
    def _administration_has_its_own_port(self) -> "ServerConfig":
        if self.admin_bind is None:
            return self
        if self.admin_token is None:
            raise ValueError("admin_bind is of no use without admin_token; set that, too")
        if _port_or_path(self.admin_bind) == _port_or_path(self.bind):
            raise ValueError(
                f"admin_bind ({self.admin_bind}) must have another port than bind ({self.bind}): "
                f"requests are told apart by it"
            )
        return self

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
        return max(1, usable_cores() // self.workers)


def _port_or_path(bind: str) -> str:
    return bind if bind.startswith("unix:") else bind.rpartition(":")[2]


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
    return _beside_the_config(source, info)


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
    compile: bool = False
    reproducible: bool = Field(
        False,
        description="Pads every batch to max_batch_size, so that an answer is the same to the bit "
        "whichever neighbours it travelled with.",
    )
    batching: BatchingConfig = BatchingConfig()

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


# The first part of every path that is ours, or that a protocol we speak may have.
OUR_PATHS = frozenset(
    {
        *("predict", "models", "predictions", "v1", "v2", "admin"),
        *("livez", "readyz", "healthz", "ping", "metrics", "debug", "openapi.json", "docs"),
        *("dashboard", "static", "samples"),
    }
)


class EndpointConfig(Section):
    """A path of the operator's own, and what it promises: an application, as Clipper called it."""

    path: str = Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    model: str = Field(description="The name of one of the models.")
    version: Annotated[str | None, BeforeValidator(_text)] = Field(
        None, description="null: the current one."
    )
    slo_ms: float | None = Field(
        None, gt=0, description="An answer by then, or the default output; null: as the model."
    )
    default_output: Any = Field(
        None, description="What is answered in place of what does not come; null: the error."
    )

    @field_validator("path")
    @classmethod
    def _path_is_not_ours(cls, path: str) -> str:
        first = path.split("/")[1]
        if first in OUR_PATHS:
            raise ValueError(f"paths below /{first} are the server's own; begin it otherwise")
        return path


class Config(Section):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    models: list[ModelConfig] = Field(min_length=1)
    endpoints: list[EndpointConfig] = []

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
    def _promises_end_before_deadlines(self) -> "Config":
        for number, model in enumerate(self.models):
            if model.slo_ms is None:
                continue
            if model.slo_ms > self.server.default_timeout_ms:
                raise ValueError(
                    f"models.{number}.slo_ms ({model.slo_ms:g}) is above "
                    f"server.default_timeout_ms ({self.server.default_timeout_ms:g}), after which "
                    f"nobody is answered; raise the one or lower the other"
                )
            if model.batching.policy == "fixed":
                raise ValueError(
                    f"models.{number}.slo_ms is kept by policy adaptive, and not by fixed; leave "
                    f"out one of them"
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

    @model_validator(mode="after")
    def _endpoints_lead_somewhere(self) -> "Config":
        versions: dict[str, list[str]] = {}
        for model in self.models:
            versions.setdefault(model.name, []).append(model.version)
        for number, endpoint in enumerate(self.endpoints):
            where = f"endpoints.{number}"
            if endpoint.model not in versions:
                raise ValueError(
                    f"{where}.model: there is no model {endpoint.model!r}; there is "
                    f"{', '.join(versions)}"
                )
            if endpoint.version not in (None, *versions[endpoint.model]):
                raise ValueError(
                    f"{where}.version: model {endpoint.model!r} has no version "
                    f"{endpoint.version!r}; it has {', '.join(versions[endpoint.model])}"
                )
            if (endpoint.slo_ms or 0) > self.server.default_timeout_ms:
                raise ValueError(
                    f"{where}.slo_ms ({endpoint.slo_ms:g}) is above server.default_timeout_ms "
                    f"({self.server.default_timeout_ms:g}), after which nobody is answered; raise "
                    f"the one or lower the other"
                )
        return self

    @model_validator(mode="after")
    def _endpoints_are_distinct(self) -> "Config":
        paths = [endpoint.path for endpoint in self.endpoints]
        for number, path in enumerate(paths):
            if path in paths[:number]:
                raise ValueError(
                    f"endpoints.{number}.path: {path} is listed twice; give one of them another"
                )
        return self

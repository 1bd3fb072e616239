"""How the server listens, logs, bounds what it accepts, and whom it trusts."""

from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from batchserve.addresses import AllowedHosts
from batchserve.config.section import Address, BesideTheConfig, Secret, Section, beside_the_config
from batchserve.cores import usable_cores

REDIS = ("redis://", "rediss://")


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
        None, ge=1, description="Per worker, for forward passes, at most; null: cores ÷ workers."
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
        return state if state.startswith(REDIS) else beside_the_config(state, info)

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

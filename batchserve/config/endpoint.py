"""Paths of the operator's own."""

from typing import Any

from pydantic import Field, field_validator

from batchserve.config.section import Section, Text

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
    version: Text | None = Field(None, description="null: the current one.")
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

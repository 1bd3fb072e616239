"""What every section of the configuration is, and the kinds of values in them."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    ValidationInfo,
    model_validator,
)


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


def beside_the_config(path: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder", Path())
    return str(folder / Path(path).expanduser())


BesideTheConfig = Annotated[str, AfterValidator(beside_the_config)]
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


def _address(stated: object) -> str:
    bind = str(stated)
    if bind.startswith("unix:") and len(bind) > len("unix:"):
        return bind
    host, colon, port = bind.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise ValueError("write host:port, as in 127.0.0.1:8000, or unix:PATH")
    return bind


Address = Annotated[str, BeforeValidator(_address)]


def _text(version: Any) -> Any:
    # YAML reads `version: 1` as a number, which nobody means.
    is_number = isinstance(version, int | float) and not isinstance(version, bool)
    return str(version) if is_number else version


Text = Annotated[str, BeforeValidator(_text)]

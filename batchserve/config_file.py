"""Read the configuration: one YAML file and the environment, once, at the edge."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from batchserve.config import Config, ModelConfig, ServerConfig
from batchserve.errors import ConfigError
from batchserve.mistakes import in_words, place_of

ENV_PREFIX = "BATCHSERVE_"
ENV_CONFIG = "BATCHSERVE_CONFIG"
ENV_VALID = "BATCHSERVE_VALID_CONFIG"
# What Kubernetes sets in each pod for a service that is named batchserve.
KUBERNETES = re.compile(r"BATCHSERVE_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_\w+)?)$").match
DEFAULT_CONFIG = "config.yaml"
# Values of theirs are not repeated in messages; Redis's address may hold a password.
SECRETS = ("server.admin_token", "server.api_keys", "server.state")


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
        raise ConfigError(f"{path} cannot be read as YAML: {_yaml_trouble(error)}") from error
    if raw is None:
        raise ConfigError(f"{path} is empty; it must hold the key models")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold the keys server and models, not {_short(raw)}")
    _lay_over(raw, environ)
    try:
        return Config.model_validate(raw, context={"folder": path.resolve().parent})
    except ValidationError as error:
        lines = [f"  {line}" for line in _lines(error)]
        raise ConfigError("\n".join([f"{path} is not a valid configuration:", *lines])) from None


def valid_model(section: Mapping[str, Any], server: ServerConfig, folder: Path) -> ModelConfig:
    """Return what one model's section says that does not come from the file.

    Args:
        section: as it would be in the file.
        server: the section of the server, which it must not contradict.
        folder: what its paths are relative to.

    Raises:
        ConfigError: with each mistake, naming the key, the value and the fix.
    """
    try:
        config = Config.model_validate(
            {"server": server, "models": [section]}, context={"folder": folder}
        )
    except ValidationError as error:
        lines = (line.removeprefix("models.0.") for line in _lines(error))
        raise ConfigError("; ".join(lines)) from None
    return config.models[0]


def _lines(error: ValidationError) -> list[str]:
    # A union reports one mistake for each of its members.
    return list(dict.fromkeys(_explain(mistake) for mistake in error.errors()))


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
        place = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        shown = "" if place.startswith(SECRETS) else f": {text!r}: {error}"
        raise ConfigError(
            f"the environment variable {variable} cannot be read as YAML{shown}"
        ) from None


def _yaml_trouble(error: Exception) -> str:
    """Return in a line what PyYAML tells in seven."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error)


def _explain(mistake: ErrorDetails) -> str:
    where = place_of(mistake)
    if mistake["type"] == "extra_forbidden":
        *parents, key = mistake["loc"]
        known = _keys_at(parents)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if mistake["type"] == "missing":
        return f"{where}: is missing"
    said = in_words(mistake)
    if not where or where.startswith(SECRETS) or isinstance(mistake["input"], dict | BaseModel):
        return said
    return f"{said} (it is {_short(mistake['input'])})"


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

"""What may be loaded over HTTP: whoever has the token may choose, but not have us run their code.

That is decided each time a version is loaded, also if the store has kept what was allowed once.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchserve.config import Config, ModelConfig
from batchserve.config_file import valid_model
from batchserve.errors import ConfigError, Forbidden, InvalidInput

# How a model is run, which harms nobody.
SAFE = frozenset(
    {
        *("name", "version", "image", "input_shape", "input_dtype", "slo_ms", "device"),
        *("precision", "quantize", "compile", "channels_last", "autotune", "reproducible"),
        *("fold_batch_norms", "parallel_batches", "cuda_graphs", "batching", "sha256"),
    }
)
# Where it comes from; each is looked at. Any other key is for the config file alone.
CHECKED = ("source", "architecture", "weights", "task", "labels")
BUILT_IN = frozenset({"tensor", "image-classification", "imagenet"})
TORCHVISION = "torchvision:"


def permitted(config: Config, key: str, section: Mapping[str, Any]) -> ModelConfig:
    """Return a section from HTTP as a model's config, if it may be loaded.

    Its paths are relative to `model_folder`. Waits for the disk, where links are followed.

    Args:
        config: of the server; what it names itself is allowed.
        key: name and version, which the section need not repeat.
        section: as in the config file.

    Raises:
        InvalidInput: it makes no sense.
        Forbidden: an operator has to allow it; the message says how.
    """
    name, _, version = key.partition(":")
    for field, value in (("name", name), ("version", version)):
        if field in section and str(section[field]) != value:
            raise InvalidInput(
                f"{field}: the path says {value!r}, the body {section[field]!r}; leave it out of "
                f"the body"
            )
    if "candidate" in section:
        raise InvalidInput(
            f"candidate: is no part of a version's section here; once it is loaded, "
            f"PUT /admin/models/{name}/candidate"
        )
    folder = config.server.model_folder
    described = {**section, "name": name, "version": version}
    try:
        model = valid_model(described, config.server, Path(folder or os.curdir))
    except ConfigError as error:
        raise InvalidInput(str(error)) from None
    for field in sorted(model.model_fields_set - SAFE - set(CHECKED)):
        if getattr(model, field) != ModelConfig.model_fields[field].default:
            raise Forbidden(
                f"{field} cannot be set over HTTP; an operator may list this version in the "
                f"config file, with {field}, and reload"
            )
    return model.model_copy(
        update={
            field: _checked(config, field, value, folder)
            for field in CHECKED
            if isinstance(value := getattr(model, field), str)
        }
    )


def _checked(config: Config, field: str, value: str, folder: str | None) -> str:
    """Return the value, a path without links in it."""
    if value in BUILT_IN or _is_named(config, field, value):
        return value
    if value.startswith(TORCHVISION) or (field == "weights" and _is_constant(value)):
        return value
    if ":" in value or field in ("architecture", "task"):
        raise Forbidden(
            f"{field}: {value!r} is code or an address that the config file does not name; an "
            f"operator may list a version with this {field} there, and reload"
        )
    if folder is None:
        raise Forbidden(
            f"{field}: no file may be loaded over HTTP; an operator may set server.model_folder "
            f"to the folder of those that may"
        )
    try:
        real = os.path.realpath(value)
    except ValueError as error:
        raise InvalidInput(f"{field}: {value!r} is no path: {error}") from None
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise Forbidden(
            f"{field}: {value} is not within server.model_folder, links being followed; an "
            f"operator may move the file there"
        )
    return real


def _is_named(config: Config, field: str, value: str) -> bool:
    # Both are called for a module.
    alike = ("source", "architecture") if field in ("source", "architecture") else (field,)
    return any(getattr(model, other) == value for model in config.models for other in alike)


def _is_constant(weights: str) -> bool:
    return weights.replace("_", "").isalnum() and weights.isupper()

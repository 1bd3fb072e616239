"""What a config's `source` names, as a module in evaluation mode on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from batchserve.config import ModelConfig, is_path
from batchserve.errors import LoadError
from batchserve.loading import (
    aotinductor,
    callables,
    exported,
    project,
    torchscript,
    torchvision,
)
from batchserve.loading.files import OnBytes, check_digest, check_file
from batchserve.loading.program import check_batch
from batchserve.loading.recognise import Format, recognise
from batchserve.loading.weights import classes_in, fill, read_checkpoint
from batchserve.urls import is_url, shown

LOADERS: dict[Format, Callable[[Path], torch.nn.Module]] = {
    Format.TORCHSCRIPT: torchscript.load,
    Format.EXPORTED: exported.load,
    Format.AOTINDUCTOR: aotinductor.load,
}
# What runs code that the file holds, and what that is.
CODE = {
    Format.EXPORTED: "whose loading unpickles",
    Format.AOTINDUCTOR: "which is machine code",
}


def load_module(
    config: ModelConfig, on_bytes: OnBytes = lambda _done, _of: None
) -> torch.nn.Module:
    """Load what `source` names, in evaluation mode, in the precision of its file, on the CPU.

    Args:
        config: of the model.
        on_bytes: of a file that is fetched, called with how many bytes are there, and of how many.

    Raises:
        LoadError: it cannot be had; the message says what to do.
    """
    try:
        module = _load(config, on_bytes).eval()
        check_batch(module, config.batching.max_batch_size)
    except LoadError as error:
        raise LoadError(f"model {config.name}: {error}") from error
    return module


def _load(config: ModelConfig, on_bytes: OnBytes) -> torch.nn.Module:
    if config.source.startswith("torchvision:"):
        return torchvision.load(config.source, config.weights, trust=config.trust)
    if is_path(config.source):
        return _from_file(_path_of(config, on_bytes), config)
    return _with_weights(callables.load(config.source), config)


def _path_of(config: ModelConfig, on_bytes: OnBytes) -> Path:
    if is_url(config.source):
        from batchserve.loading.download import fetch  # noqa: PLC0415 - requests, only for who needs it

        return fetch(config.source, config.sha256, on_bytes)
    path = Path(config.source)
    check_file(path)
    check_digest(path, config.sha256, str(path))
    return path


def _from_file(path: Path, config: ModelConfig) -> torch.nn.Module:
    kind = recognise(path)
    _check_keys(path, kind, config)
    if kind is Format.PROJECT:
        return _with_weights(project.load(path, config.entry), config)
    return LOADERS[kind](path) if kind in LOADERS else _from_checkpoint(path, config)


def _from_checkpoint(path: Path, config: ModelConfig) -> torch.nn.Module:
    held = read_checkpoint(path, trust=config.trust)
    while isinstance(held, torch.nn.DataParallel):
        # It would look for the GPUs of the machine that it was trained on.
        held = held.module
    if isinstance(held, torch.nn.Module):
        return held
    return fill(_architecture(path, config, held), held, path)


def _check_keys(path: Path, kind: Format, config: ModelConfig) -> None:
    """Raise unless the config's other keys go with the file."""
    if kind in CODE and not config.trust:
        raise LoadError(
            f"{path} is {kind}, {CODE[kind]}: it can run any code that the file holds. If you "
            f"trust its origin, set trust: true"
        )
    if kind is Format.PROJECT:
        if is_url(config.source) and not (config.trust or config.sha256):
            raise LoadError(
                f"{shown(config.source)} is {kind}, whose code would run, whatever it is by then: "
                f"state its sha256, or set trust: true"
            )
        return
    if config.entry is not None:
        raise LoadError(f"entry is for {Format.PROJECT}, and {path} is {kind}; leave it out")
    if config.weights is not None:
        raise LoadError(
            f"weights is for torchvision:NAME, package.module:callable and {Format.PROJECT}, and "
            f"{path} is {kind}; leave it out"
        )


def _architecture(path: Path, config: ModelConfig, held: Any) -> torch.nn.Module:
    if config.architecture is None:
        raise LoadError(
            f"{path} holds weights only; set architecture: to what they belong in, as in "
            f"torchvision:resnet18 or package.module:callable"
        )
    if config.architecture.startswith("torchvision:"):
        return torchvision.build(torchvision.known_name(config.architecture), classes_in(held))
    return callables.load(config.architecture)


def _with_weights(module: torch.nn.Module, config: ModelConfig) -> torch.nn.Module:
    if config.weights is None:
        return module
    path = Path(config.weights)
    return fill(module, read_checkpoint(path, trust=config.trust), path)

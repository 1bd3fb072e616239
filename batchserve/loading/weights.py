"""Weights in all that training scripts save, and the module that they belong in."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from batchserve.errors import LoadError
from batchserve.loading.files import check_file
from batchserve.loading.pickled import unpickle
from batchserve.loading.recognise import Format, recognise

# What training scripts wrap a state_dict in.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# What torch.compile puts into the names of a module's parts.
COMPILED = "_orig_mod."
SHOWN = 5

Weights = Mapping[str, torch.Tensor]


def read_checkpoint(path: Path, *, trust: bool) -> Any:
    """Return what a file of weights holds, on the CPU.

    Raises:
        LoadError: it is no such file, or is damaged, or may not be unpickled.
    """
    check_file(path)
    kind = recognise(path)
    if kind is Format.SAFETENSORS:
        return _read_safetensors(path)
    if kind in (Format.TORCH, Format.PICKLE):
        return unpickle(path, trust=trust)
    raise LoadError(f"{path} is {kind}, which holds a whole model; name it as source")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError  # noqa: PLC0415 - only for who has such files
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise LoadError(f"{path} cannot be loaded as safetensors: {error}") from error


def fill(module: torch.nn.Module, held: Any, path: Path) -> torch.nn.Module:
    """Put the weights of a checkpoint into a module.

    Args:
        module: what they belong in.
        held: the checkpoint.
        path: where it is from, for messages.

    Raises:
        LoadError: there are no weights in it, or they do not fit.
    """
    weights = state_dict_in(held)
    if weights is None:
        raise LoadError(f"{path} holds {type(held).__name__}, not a state_dict")
    weights = _without_prefix(weights, module.state_dict())
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise LoadError(_misfit(module, weights, path) or f"{path}: {error}") from error
    missing = _not_shared(missing, weights, module)
    if missing or unexpected:
        raise LoadError(
            f"the weights in {path} do not fit {type(module).__name__}: "
            f"missing: {_shown(missing)}; not known there: {_shown(unexpected)}"
        )
    return module


def state_dict_in(held: Any) -> Weights | None:
    """Return the weights in a checkpoint, or None: training scripts wrap them in mappings."""
    if isinstance(held, torch.nn.Module):
        return held.state_dict()
    while isinstance(held, Mapping):
        if held and all(isinstance(value, torch.Tensor) for value in held.values()):
            return held
        wrapper = next((name for name in WRAPPERS if name in held), None)
        if wrapper is None:
            return None
        held = held[wrapper]
    return None


def classes_in(held: Any) -> int | None:
    """Return how many classes a checkpoint knows: the size of its last layer."""
    weights = state_dict_in(held)
    last = next(reversed(list(weights.values())), None) if weights else None
    return last.shape[0] if last is not None and last.ndim else None


def _without_prefix(weights: Weights, known: Iterable[str]) -> Weights:
    """Take off what DataParallel (`module.`) and other wrappers have put before every name."""
    known = set(known)
    bare = {name.replace(COMPILED, ""): value for name, value in weights.items()}
    stripped = bare
    while stripped and not known & stripped.keys():
        prefixes = {name.partition(".")[0] for name in stripped}
        if len(prefixes) > 1 or not all("." in name for name in stripped):
            return bare
        stripped = {name.partition(".")[2]: value for name, value in stripped.items()}
    return stripped


def _not_shared(missing: list[str], weights: Weights, module: torch.nn.Module) -> list[str]:
    """Leave out names of tensors that another name has filled: safetensors keeps one of them."""
    known = module.state_dict()
    filled = {known[name].data_ptr() for name in weights if name in known}
    return [name for name in missing if known[name].data_ptr() not in filled]


def _misfit(module: torch.nn.Module, weights: Weights, path: Path) -> str | None:
    known = module.state_dict()
    others = [
        f"{name} has shape {list(value.shape)} in the file and {list(known[name].shape)} in "
        f"{type(module).__name__}"
        for name, value in weights.items()
        if name in known and value.shape != known[name].shape
    ]
    if not others:
        return None
    return (
        f"the weights in {path} have other shapes: {_shown(others)}; build the architecture with "
        f"the sizes that it was trained with"
    )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN]) or 'none'}{more}"

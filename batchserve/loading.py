"""From a config's `source` to a module that is ready to run."""

import copy
import difflib
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.importing import import_attribute

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What training scripts wrap a state_dict in.
WRAPPERS = ("state_dict", "model_state_dict", "model")
KEYS_SHOWN = 5


def use_threads(count: int) -> None:
    """Let each forward pass of this process use `count` cores."""
    torch.set_num_threads(count)


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the best that is there.

    Raises:
        LoadError: it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise LoadError(
            f"device: {name} is not there; torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; device: auto takes what there is"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LoadError("device: mps is not there; device: auto takes what there is")
    return device


def load_module(config: ModelConfig) -> torch.nn.Module:
    """Load what `source` names, in evaluation mode, in fp32 on the CPU.

    Raises:
        LoadError: it cannot be had; the message says what to do.
    """
    try:
        return _load(config).eval()
    except LoadError as error:
        raise LoadError(f"model {config.name}: {error}") from error


def place_module(
    module: torch.nn.Module, config: ModelConfig, device: torch.device
) -> torch.nn.Module:
    """Move a loaded module to its device, in its precision, and compile it if configured."""
    module = module.to(device=device, dtype=DTYPES[config.precision])
    if config.compile:
        # dynamic: one compilation for all batch sizes, instead of one for each.
        module = torch.compile(module, dynamic=True)  # type: ignore[assignment]
    return module


def _load(config: ModelConfig) -> torch.nn.Module:
    if ":" in config.source:
        if config.source.startswith("torchvision:"):
            return _from_torchvision(config.source, config.weights, trust=config.trust)
        module = _from_callable(config.source)
        if config.weights is None:
            return module
        path = Path(config.weights)
        return _fill(module, _read_weights(path, trust=config.trust), path)
    return _from_file(Path(config.source), config.architecture, trust=config.trust)


def _from_torchvision(
    source: str, weights: str | None, *, trust: bool = False, classes: int | None = None
) -> torch.nn.Module:
    from torchvision import models  # noqa: PLC0415 - 2 s that other sources need not pay

    name = source.partition(":")[2]
    if name not in models.list_models():
        near = difflib.get_close_matches(name, models.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise LoadError(f"torchvision has no model {name!r}{hint}")
    known = models.get_model_weights(name)
    if weights is not None and Path(weights).name == weights and weights not in known.__members__:
        raise LoadError(
            f"torchvision's {name} has no weights {weights!r}; it has "
            f"{', '.join(known.__members__)}; a file is named by its path"
        )
    if weights is None or "/" in weights or weights not in known.__members__:
        # Models of segmentation and detection fetch a backbone unless told not to.
        takes_backbone = "weights_backbone" in signature(models.get_model_builder(name)).parameters
        backbone = {"weights_backbone": None} if takes_backbone else {}
        held = None if weights is None else _read_weights(Path(weights), trust=trust)
        classes = classes or _classes(held)
        # A fine-tuned model has classes of its own.
        head = {} if classes is None else {"num_classes": classes}
        module: torch.nn.Module = models.get_model(name, weights=None, **backbone, **head)
        return module if weights is None else _fill(module, held, Path(weights))
    try:
        return models.get_model(name, weights=known[weights], progress=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:
        raise LoadError(
            f"the weights {weights} of torchvision's {name} could not be downloaded from "
            f"{known[weights].url} ({error}); fetch that file where there is a network and set "
            f"weights: to its path"
        ) from error


def _from_callable(source: str) -> torch.nn.Module:
    made = import_attribute(source)
    if not isinstance(made, torch.nn.Module):
        if not callable(made):
            raise LoadError(f"{source!r} is neither a torch.nn.Module nor callable")
        try:
            made = made()
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(
                f"{source!r} failed when it was called without arguments: "
                f"{type(error).__name__}: {error}"
            ) from error
    else:
        # Another version may name it too, with weights and a precision of its own.
        made = copy.deepcopy(made)
    if not isinstance(made, torch.nn.Module):
        raise LoadError(f"{source!r} returned {type(made).__name__}, not a torch.nn.Module")
    return made


def _from_file(path: Path, architecture: str | None, *, trust: bool) -> torch.nn.Module:
    if not path.is_file():
        raise LoadError(f"there is no file {path}; a path is relative to the config's folder")
    if _is_torchscript(path):
        try:
            with warnings.catch_warnings():
                # torch advises torch.export, which this file's user can do nothing about here.
                warnings.filterwarnings("ignore", message=r".*torch\.jit\.load", category=Warning)
                return torch.jit.load(os.fspath(path), map_location="cpu")  # type: ignore[no-any-return, no-untyped-call]
        except RuntimeError as error:
            raise LoadError(f"{path} cannot be loaded as TorchScript: {error}") from error
    held = _unpickle(path, trust=trust)
    if isinstance(held, torch.nn.Module):
        return held
    if architecture is None:
        raise LoadError(
            f"{path} holds weights only; set architecture: to what they belong in, as in "
            f"torchvision:resnet18 or package.module:callable"
        )
    if architecture.startswith("torchvision:"):
        return _fill(_from_torchvision(architecture, None, classes=_classes(held)), held, path)
    return _fill(_from_callable(architecture), held, path)


def _read_weights(path: Path, *, trust: bool) -> Any:
    if not path.is_file():
        raise LoadError(f"weights: there is no file {path}")
    return _unpickle(path, trust=trust)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unpickle(path: Path, *, trust: bool) -> Any:
    with path.open("rb") as file:
        # Since version 1.6 a zip; before, a pickle, whose protocol 2 begins so.
        if not (zipfile.is_zipfile(path) or file.read(2) == b"\x80\x02"):
            raise LoadError(f"{path} is no file that torch.save has written")
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if not trust and "weights_only" in str(error).lower():
            raise LoadError(
                f"{path} holds more than weights: a whole pickled module, which runs whatever "
                f"code the file contains when it is loaded. If you trust its origin, set "
                f"trust: true; better, save model.state_dict() and name its architecture"
            ) from error
        raise LoadError(f"{path} is no file that torch.save has written: {error}") from error
    except Exception as error:
        raise LoadError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error


def _fill(module: torch.nn.Module, held: Any, path: Path) -> torch.nn.Module:
    weights = _state_dict(held)
    if weights is None:
        raise LoadError(f"{path} holds {type(held).__name__}, not a state_dict")
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise LoadError(f"the weights in {path} have other shapes: {error}") from error
    if missing or unexpected:
        raise LoadError(
            f"the weights in {path} do not fit {type(module).__name__}: "
            f"{_shown('missing', missing)}; {_shown('not known there', unexpected)}"
        )
    return module


def _state_dict(held: Any) -> dict[str, torch.Tensor] | None:
    """Return the weights in a checkpoint: wrapped by a training script, or by DataParallel."""
    if isinstance(held, torch.nn.Module):
        return held.state_dict()
    while isinstance(held, Mapping):
        if held and all(isinstance(value, torch.Tensor) for value in held.values()):
            parallel = all(name.startswith("module.") for name in held)
            return {
                name.removeprefix("module.") if parallel else name: value
                for name, value in held.items()
            }
        wrapper = next((name for name in WRAPPERS if name in held), None)
        if wrapper is None:
            return None
        held = held[wrapper]
    return None


def _classes(held: Any) -> int | None:
    """Return how many classes a checkpoint knows: the size of its last layer."""
    weights = _state_dict(held)
    last = next(reversed(weights.values()), None) if weights else None
    return last.shape[0] if last is not None and last.ndim else None


def _shown(what: str, names: list[str]) -> str:
    more = f" and {len(names) - KEYS_SHOWN} more" if len(names) > KEYS_SHOWN else ""
    return f"{what}: {', '.join(names[:KEYS_SHOWN]) or 'none'}{more}"

"""A module from an object of Python: a module itself, a class, or a function without arguments."""

import copy
from typing import Any

import torch

from batchserve.errors import LoadError
from batchserve.importing import import_attribute


def load(source: str) -> torch.nn.Module:
    """Return the module that `package.module:callable` names or makes.

    Raises:
        LoadError: there is no such thing, or it makes no module.
    """
    return module_from(import_attribute(source), source)


def module_from(made: Any, source: str) -> torch.nn.Module:
    """Return an object itself, if it is a module, or what it returns.

    Args:
        made: the object.
        source: its name, for messages.

    Raises:
        LoadError: no module comes of it.
    """
    if isinstance(made, torch.nn.Module):
        # Another version may name it too, with weights and a precision of its own.
        return copy.deepcopy(made)
    if not callable(made):
        raise LoadError(f"{source!r} is neither a torch.nn.Module nor callable")
    try:
        module = made()
    except LoadError:
        raise
    except (Exception, SystemExit) as error:
        raise LoadError(
            f"{source!r} failed when it was called without arguments: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise LoadError(f"{source!r} returned {type(module).__name__}, not a torch.nn.Module")
    return module

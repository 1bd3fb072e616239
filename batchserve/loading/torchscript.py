"""TorchScript: scripted, traced and frozen modules."""

import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from batchserve.errors import LoadError


def load(path: Path) -> torch.jit.ScriptModule:
    """Return the module in a file, on the CPU.

    Raises:
        LoadError: it is damaged, or of a newer torch.
    """
    try:
        return _read(os.fspath(path), torch.device("cpu"))
    except RuntimeError as error:
        raise LoadError(f"{path} cannot be loaded as TorchScript: {error}") from error


def read_again(module: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Return a copy of a module whose constants are on that device."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return _read(buffer, device)


def _read(file: str | io.BytesIO, device: torch.device) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # torch advises torch.export, which this file's user can do nothing about here.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load", category=Warning)
        return torch.jit.load(file, map_location=device)  # type: ignore[no-any-return, no-untyped-call]


def constant_dtypes(module: torch.jit.ScriptModule) -> set[torch.dtype]:
    """Return of what precision the numbers are that freezing has put into the graph.

    No `.to()` reaches them. A module that was not frozen has parameters instead.
    """
    if next(module.parameters(), None) is not None:
        return set()
    graph: Any = module.inlined_graph
    values = [
        node.t("value")
        for node in graph.findAllNodes("prim::Constant")
        if node.hasAttribute("value") and node.kindOf("value") == "t"
    ]
    # A single number takes part in any precision.
    return {value.dtype for value in values if value.is_floating_point() and value.ndim}

"""Files that pickle has written: weights alone for anybody, whole modules for who trusts them."""

import argparse
import pathlib
import pickle
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from batchserve.errors import LoadError
from batchserve.loading.recognise import Format, recognise

# What dill writes names its own functions.
DILL = b"dill._dill"
# What training scripts keep beside weights: their arguments and their best score. None of it runs
# anything. NumPy 1 called its modules otherwise.
SCALARS = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")},
    *((np.float64(0).__reduce__()[0], name) for name in SCALARS),
]


def unpickle(path: Path, *, trust: bool) -> Any:
    """Return what a file of torch.save, pickle or dill holds, on the CPU.

    Args:
        path: of the file.
        trust: whether code that the file names may run. Otherwise it may hold tensors, numbers and
            text only.

    Raises:
        LoadError: it holds more and is not trusted, is damaged, or needs what is not there.
    """
    torch.serialization.add_safe_globals(HARMLESS)
    try:
        if recognise(path) is Format.PICKLE:
            return _unpickle_plain(path, trust=trust)
        pickle_module = _dill() if trust and _written_by_dill(path) else None
        with warnings.catch_warnings():
            # Old files carry their source, which has changed since; nobody here can help it.
            warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)
            return torch.load(
                path, map_location="cpu", weights_only=not trust, pickle_module=pickle_module
            )
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(_explain(path, error, trust=trust)) from error


def _unpickle_plain(path: Path, *, trust: bool) -> Any:
    if not trust:
        raise LoadError(_untrusted(path))
    module: Any = _dill() if _written_by_dill(path) else pickle
    with path.open("rb") as file:
        return module.load(file)


def _written_by_dill(path: Path) -> bool:
    # In a zip of torch.save nothing is compressed.
    with path.open("rb") as file:
        rest = b""
        while block := file.read(2**20):
            if DILL in rest + block:
                return True
            rest = block[-len(DILL) :]
    return False


def _dill() -> ModuleType:
    try:
        import dill  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise LoadError(
            "it was written with dill, which is not installed: pip install 'batchserve[dill]'"
        ) from None
    return dill  # type: ignore[no-any-return]


def _explain(path: Path, error: Exception, *, trust: bool) -> str:
    reason = str(error)
    if isinstance(error, pickle.UnpicklingError) and not trust and "weights_only" in reason.lower():
        named = re.search(r"GLOBAL ([\w.]+)", reason)
        return _untrusted(path, f" ({named[1]})" if named else "")
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{path} needs the Python module {error.name!r}, in which its classes were defined; "
            f"put it beside the config file, or install it"
        )
    if missing := re.search(r"get attribute '([\w.]+)' on <module '(\w+)'", reason):
        name, module = missing.groups()
        where = "the script that saved it" if module == "__main__" else f"the module {module!r}"
        return (
            f"{path} needs the class {name!r} of {where}, which is not there; save "
            f"model.state_dict() instead and name its architecture, or save it with dill"
        )
    return f"{path} cannot be loaded: {type(error).__name__}: {reason}"


def _untrusted(path: Path, what: str = "") -> str:
    return (
        f"{path} holds more than weights{what}: a whole pickled module, which runs whatever code "
        f"the file contains when it is loaded. If you trust its origin, set trust: true; better, "
        f"save model.state_dict() and name its architecture"
    )

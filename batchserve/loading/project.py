"""A zip of a project: `entry: "model:build"` says what in it makes the model."""

import difflib
import importlib
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from batchserve.errors import LoadError
from batchserve.loading.callables import module_from
from batchserve.loading.isolated import PREFIX, findable, make_package
from batchserve.loading.unpacking import LITTER, unpacked

SHOWN = 8


def load(path: Path, entry: str | None) -> torch.nn.Module:
    """Return the module that a project's entry names or makes.

    Args:
        path: of the zip.
        entry: `module:callable`, as seen from the folder that holds everything.

    Raises:
        LoadError: there is no such entry, or it makes no module.
    """
    if entry is None:
        names = ", ".join(_python_files(path)[:SHOWN])
        raise LoadError(
            f"{path} is a zip of a project; set entry: to what makes the model, as in "
            f'"model:build" for the function or class build in model.py; it holds {names}'
        )
    name, _, attribute = entry.partition(":")
    folder = unpacked(path)
    root = root_of(folder, name)
    inside = root.joinpath(*name.split(".")[:-1])
    # As for a script, its own folder comes first, unless that is a package.
    folders = [root] if (inside / "__init__.py").exists() else list(dict.fromkeys([inside, root]))
    package = make_package(folders)
    with findable(package):
        made = _attribute(f"{package}.{name}", attribute, entry, path, root)
        try:
            return module_from(made, entry)
        except LoadError as error:
            raise LoadError(f"{path}: {_readable(error)}{_hint(error, root)}") from error


def root_of(folder: Path, name: str) -> Path:
    """Return where a project's modules lie: in the folder, or in the only one that is in it.

    Args:
        folder: what the zip was unpacked to.
        name: of the entry's module, which may begin with that only one.
    """
    inner = [path for path in folder.iterdir() if not path.name.startswith(".")]
    wrapped = len(inner) == 1 and inner[0].is_dir() and inner[0].name != name.partition(".")[0]
    return inner[0] if wrapped else folder


def _attribute(module_name: str, attribute: str, entry: str, path: Path, root: Path) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise LoadError(
                f"{path}: importing {entry.partition(':')[0]} failed, because it needs "
                f"{_readable(error.name)!r}, which is neither in the zip nor installed"
            ) from error
        raise LoadError(_no_module(entry, path, root)) from error
    except (Exception, SystemExit) as error:
        raise LoadError(
            f"{path}: importing {entry.partition(':')[0]} failed: {type(error).__name__}: "
            f"{_readable(error)}{_hint(error, root)}"
        ) from error
    if not hasattr(module, attribute):
        own = [name for name, value in vars(module).items() if _defined_in(module_name, value)]
        raise LoadError(
            f"{path}: entry {entry!r}: the module has no {attribute!r}; {_near(attribute, own)}"
        )
    return getattr(module, attribute)


def _defined_in(module_name: str, value: Any) -> bool:
    return getattr(value, "__module__", None) == module_name or isinstance(value, torch.nn.Module)


def _no_module(entry: str, path: Path, root: Path) -> str:
    name = entry.partition(":")[0]
    files = [file.relative_to(root).with_suffix("") for file in sorted(root.rglob("*.py"))]
    known = [".".join(file.parts).removesuffix(".__init__") for file in files]
    return f"{path}: entry {entry!r}: there is no module {name!r} in it; {_near(name, known)}"


def _near(name: str, known: list[str]) -> str:
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(known[:SHOWN]) or 'none'}"


def _hint(error: BaseException, root: Path) -> str:
    """Return what to do about a file that was looked for in the wrong place."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, FileNotFoundError):
        cause = cause.__cause__
    missed = PurePosixPath(str(cause.filename)) if cause and cause.filename else None
    if missed is None or missed.is_absolute() or not any(root.rglob(missed.name)):
        return ""
    return (
        f"; the project has it, but not where the server was started: open "
        f"Path(__file__).parent / {str(missed)!r}"
    )


def _readable(message: object) -> str:
    """Return a message with modules named as the project names them."""
    return re.sub(rf"{PREFIX}\w+\.?", "", str(message))


def _python_files(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".py"))
    return [name for name in names if not set(PurePosixPath(name).parts) & set(LITTER)]

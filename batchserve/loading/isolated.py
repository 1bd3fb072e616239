"""Modules of a folder that are this folder's own, whatever other modules are called.

Two projects, and two versions of one, may each have a module `helpers`. So each folder's modules
are imported as parts of a package of its own, `batchserve_project_3f2a….helpers`, and to its code
alone `import helpers` means that, at any time and on any thread: the import statement calls the
`__import__` among the builtins of the module that it stands in.

What imports by name on behalf of a project, as unpickling does, knows nothing of that. For it,
while a project's entry runs, its names are found last, and forgotten afterwards.
"""

import builtins
import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "batchserve_project_"


def make_package(folders: Sequence[Path]) -> str:
    """Return the name of the package whose modules lie in folders.

    Args:
        folders: where modules are looked for, in this order.
    """
    name = PREFIX + hashlib.sha256(repr(folders).encode()).hexdigest()[:16]
    if name not in sys.modules:
        # Never executed: what this loader gives is data beside the modules.
        loader = SourceFileLoader(name, str(folders[0] / "__init__.py"))
        spec = ModuleSpec(name, loader, origin=loader.path, is_package=True)
        spec.submodule_search_locations = [str(folder) for folder in folders]
        spec.has_location = True
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return name


@contextmanager
def findable(package: str) -> Iterator[None]:
    """Let whoever imports by name find a package's modules, if no others are called so."""
    with _BUILDING:
        names = _PlainNames(package)
        _findable[package] = names
        sys.meta_path.insert(0, names)
        try:
            yield
        finally:
            sys.meta_path.remove(names)
            del _findable[package]
            names.forget()


_BUILDING = threading.RLock()
_findable: dict[str, "_PlainNames"] = {}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of all such packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX) or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Gives a module an `import` of its own."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        own = {"__import__": partial(_import, package)}
        module.__dict__["__builtins__"] = {**vars(builtins), **own}
        super().exec_module(module)

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write no bytecode: the folder stays what was in the zip."""


class _PlainNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a package's modules under the names that they have in their folder."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._given: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, dot, _ = fullname.partition(".")
        if top not in self._given and (dot or not self._is_free(top)):
            return None
        return ModuleSpec(fullname, self)

    def _is_free(self, top: str) -> bool:
        if top.startswith(PREFIX) or not _has(self._package, top):
            return False
        others = (finder for finder in sys.meta_path if finder is not self)
        return all(finder.find_spec(top, None) is None for finder in others)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{self._package}.{spec.name}")
        self._spec = module.__spec__
        self._given.add(spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # What imports it has overwritten.
        module.__spec__ = self._spec

    def give(self, name: str) -> None:
        """Give a module that is imported, and those above it, the names that nobody has."""
        while name:
            if name not in sys.modules:
                sys.modules[name] = sys.modules[f"{self._package}.{name}"]
                self._given.add(name)
            name = name.rpartition(".")[0]

    def forget(self) -> None:
        for name in self._given:
            sys.modules.pop(name, None)


def _import(
    package: str,
    name: str,
    globals: Any = None,  # noqa: A002 - as `__import__` has it
    locals: Any = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Do what an import statement does, in the code of a package."""
    top = name.partition(".")[0]
    if level or not _has(package, top):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or (), 0)
    if package in _findable:
        # C code that imports, as pickle's, looks for it there.
        _findable[package].give(name)
    return module if fromlist else sys.modules[f"{package}.{top}"]


@cache
def _has(package: str, top: str) -> bool:
    """Whether a name is that of a package's own module, as it would be of a script's folder."""
    if top in sys.builtin_module_names:
        return False
    spec = PathFinder.find_spec(f"{package}.{top}", sys.modules[package].__path__)
    if spec is None:
        return False
    # A folder without __init__.py stands back behind what is installed.
    return spec.loader is not None or PathFinder.find_spec(top) is None


sys.meta_path.insert(0, _Finder())

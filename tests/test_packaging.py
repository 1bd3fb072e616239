"""What the package needs is what it says that it needs; extras are for those who ask for them."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from typing import Any

from batchserve import __version__
from tests.conftest import ROOT
from tests.test_layers import MODULES, imports_of

# What is needed without being imported by its name.
UNSEEN = {
    "uvloop",  # by aiohttp's Gunicorn worker
    "swagger-ui-py",  # for its files
}
# Extras that hold no library of the package's own.
FOR_OTHERS = {"dev", "docs", "examples"}
# From here, all else is imported that is not imported when it is needed.
WITHOUT_EXTRAS = ["cli", "app", "gunicorn_settings", "top.command", "demo", "testing"]
NOT_OURS = {"batchserve", *sys.stdlib_module_names}


def project() -> dict[str, Any]:
    described: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return described


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~; ]", each)[0]) for each in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def core() -> set[str]:
    return names(project()["dependencies"])


def extras() -> set[str]:
    of_users = project()["optional-dependencies"].items()
    return set().union(*(names(each) for extra, each in of_users if extra not in FOR_OTHERS))


def modules_of(distributions: set[str]) -> set[str]:
    """Return the top-level modules that these distributions install."""
    return {module for module, by in installed().items() if distributions & by}


@cache
def installed() -> dict[str, set[str]]:
    """Return the distributions that have each top-level module."""
    return {module: set(map(normal, by)) for module, by in packages_distributions().items()}


@cache
def imported() -> set[str]:
    found = {name.split(".")[0] for path in MODULES for name in imports_of(path)}
    return found - NOT_OURS


def test_whatever_is_imported_is_declared():
    assert imported() <= modules_of(core() | extras() | {"pydantic-core"})


def test_whatever_is_declared_is_imported():
    declared = (core() | extras()) - UNSEEN
    idle = {name for name in declared if not modules_of({name}) & imported()}
    assert idle == set()


def test_everything_can_be_imported_without_any_extra():
    missing = sorted(modules_of(extras()) - modules_of(core()))
    assert {"matplotlib", "opentelemetry"} <= set(missing)
    ours = ", ".join(f"batchserve.{module}" for module in WITHOUT_EXTRAS)
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); import {ours}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_in_one_place():
    assert "version" in project()["dynamic"]
    places = [
        path.relative_to(ROOT).as_posix()
        for path in [*MODULES, ROOT / "pyproject.toml"]
        if re.search(rf"""["']{re.escape(__version__)}["']""", path.read_text(encoding="utf-8"))
    ]
    assert places == ["batchserve/__init__.py"]

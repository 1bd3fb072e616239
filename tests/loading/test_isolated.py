import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchserve.loading import isolated
from batchserve.loading.isolated import PREFIX, findable, make_package


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget all modules that a test imports."""
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.startswith(PREFIX) or name in ("helpers", "model", "parts", "config_of_tests"):
            del sys.modules[name]
    isolated._has.cache_clear()


def folder(path: Path, **modules: str) -> Path:
    """Write modules into a folder, each named by its path."""
    for name, source in modules.items():
        file = path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return path


def package(path: Path, **modules: str) -> str:
    return make_package([folder(path, **modules)])


def imported(name: str, module: str = "model") -> Any:
    return importlib.import_module(f"{name}.{module}")


def test_each_folder_has_its_own_modules(tmp_path):
    one = package(tmp_path / "one", model="import helpers\nN = helpers.N", helpers="N = 1")
    two = package(tmp_path / "two", model="from helpers import N", helpers="N = 2")
    assert (imported(one).N, imported(two).N) == (1, 2)
    assert "helpers" not in sys.modules


LATE = """
def call():
    import helpers
    from helpers import N
    return helpers.N, N, __import__("helpers").N
"""


def test_an_import_that_runs_late_finds_the_same_on_any_thread(tmp_path):
    one = imported(package(tmp_path / "one", model=LATE, helpers="N = 1"))
    two = imported(package(tmp_path / "two", model=LATE, helpers="N = 2"))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda m=m: found.append(m.call())) for m in (two, one)]
    for thread in threads:
        thread.start()
        thread.join()
    assert found == [(2, 2, 2), (1, 1, 1)]


FORMS = [
    "import parts.head\nN = parts.head.N",
    "import parts.head as head\nN = head.N",
    "from parts import head\nN = head.N",
    "from parts.head import N",
    "from parts.head import *",
    "from .parts.head import N",
    "from . import parts\nN = parts.N",
    "import parts\nN = parts.N",
    "exec('from parts.head import N')",
    "N = eval('__import__(\"parts\").N')",
    "import importlib\nN = importlib.import_module('.parts.head', __package__).N",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_import(tmp_path, form):
    parts = {"parts/head": "from .base import N", "parts/base": "N = 3"}
    name = package(
        tmp_path / "one", model=form, **{"parts/__init__": "from parts.base import N"}, **parts
    )
    assert imported(name).N == 3


def test_what_is_not_in_the_folder_is_that_of_everybody(tmp_path):
    name = package(tmp_path / "one", model="import json, os.path\nfrom collections import abc")
    module = imported(name)
    assert (module.json, module.os) == (sys.modules["json"], sys.modules["os"])


def test_a_module_hides_the_one_that_everybody_has_from_its_own_folder_only(tmp_path):
    name = package(tmp_path / "one", model="import colorsys", colorsys="MINE = True")
    assert imported(name).colorsys.MINE
    assert not hasattr(importlib.import_module("colorsys"), "MINE")


@pytest.mark.parametrize("top", ["sys", "time"])
def test_what_is_built_into_python_cannot_be_hidden(tmp_path, top):
    name = package(tmp_path / "one", model=f"import {top} as found", **{top: "MINE = True"})
    assert imported(name).found is sys.modules[top]


def test_a_folder_without_init_stands_back_behind_what_is_installed(tmp_path):
    one = package(tmp_path / "one", model="import json", **{"json/notes": ""})
    assert imported(one).json is sys.modules["json"]
    two = package(tmp_path / "two", model="import parts.head", **{"parts/head": "N = 4"})
    assert imported(two).parts.head.N == 4


def test_a_module_that_fails_is_not_kept(tmp_path):
    name = package(tmp_path / "one", model="import helpers", helpers="raise ValueError('no luck')")
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            imported(name)


def test_no_bytecode_is_written(tmp_path):
    imported(package(tmp_path / "one", model="import helpers", helpers=""))
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["helpers.py", "model.py"]


def test_data_beside_a_module_is_read_in_every_way(tmp_path):
    (tmp_path / "one" / "parts").mkdir(parents=True)
    for path in ("labels.txt", "parts/labels.txt"):
        (tmp_path / "one" / path).write_text(path)
    source = """
import importlib.resources, pkgutil
from pathlib import Path
TEXTS = [
    (Path(__file__).parent / "labels.txt").read_text(),
    (importlib.resources.files(__package__) / "labels.txt").read_text(),
    pkgutil.get_data(__name__, "labels.txt").decode(),
]
"""
    name = package(tmp_path / "one", model=source, **{"parts/__init__": source})
    assert imported(name).TEXTS == ["labels.txt"] * 3
    assert imported(name, "parts").TEXTS == ["parts/labels.txt"] * 3


# By name, on behalf of the folder's code


def test_names_are_found_while_they_are_looked_for_and_no_longer(tmp_path):
    source = "import importlib\ndef call():\n    return importlib.import_module('parts.head').N"
    name = package(tmp_path / "one", model=source, **{"parts/head": "N = 5"})
    module = imported(name)
    with findable(name):
        assert module.call() == 5
        assert importlib.import_module("parts.head") is sys.modules[f"{name}.parts.head"]
        assert imported(name, "parts.head").__spec__.name == f"{name}.parts.head"
    assert "parts" not in sys.modules
    assert "parts.head" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="No module named 'parts'"):
        module.call()


@pytest.mark.parametrize("loads", ["loads", "_loads"], ids=["in C", "in Python"])
def test_a_pickle_that_names_a_module_is_read(tmp_path, loads):
    # As pickle.dumps(Words()) wrote it where the module was called helpers.
    content = b"\x80\x03chelpers\nWords\nq\x00)\x81q\x01."
    source = f"import pickle\ndef call():\n    return pickle.{loads}({content!r})"
    name = package(tmp_path / "one", model=source, helpers="class Words: pass")
    with findable(name):
        words = imported(name).call()
    assert type(words) is imported(name, "helpers").Words


def test_who_has_a_name_already_keeps_it(tmp_path, monkeypatch):
    helpers = folder(tmp_path / "everybody", config_of_tests="N = 0")
    monkeypatch.syspath_prepend(helpers)
    name = package(tmp_path / "one", model="import config_of_tests as c", config_of_tests="N = 6")
    everybodys = importlib.import_module("config_of_tests")
    with findable(name):
        assert imported(name).c.N == 6
        assert importlib.import_module("config_of_tests") is everybodys
    assert sys.modules["config_of_tests"] is everybodys


def test_what_fails_meanwhile_leaves_nothing_behind(tmp_path):
    name = package(tmp_path / "one", model="import helpers, none_such", helpers="")
    finders = list(sys.meta_path)
    with pytest.raises(ModuleNotFoundError, match="none_such"), findable(name):
        imported(name)
    assert sys.meta_path == finders
    assert "helpers" not in sys.modules


def test_torch_compiles_what_is_in_a_folder(tmp_path):
    source = """
import torch
from helpers import twice
@torch.compile(backend="eager", fullgraph=True)
def call(batch):
    return twice(batch)
"""
    name = package(tmp_path / "one", model=source, helpers="def twice(x):\n    return 2 * x")
    torch = importlib.import_module("torch")
    torch.testing.assert_close(imported(name).call(torch.ones(3)), 2 * torch.ones(3))


def test_torch_scripts_what_is_in_a_folder(tmp_path):
    source = """
import torch, warnings
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scripted = torch.jit.script(twice)
"""
    torch = importlib.import_module("torch")
    module = imported(package(tmp_path / "one", model=source))
    torch.testing.assert_close(module.scripted(torch.ones(3)), 2 * torch.ones(3))

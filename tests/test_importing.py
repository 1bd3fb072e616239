import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from batchserve.errors import LoadError
from batchserve.importing import import_attribute

WriteModule = Callable[[str, str], None]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Return a function that puts a module of that file name where imports look."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(file: str, text: str) -> None:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    return write


def _message(path: str) -> str:
    with pytest.raises(LoadError) as caught:
        import_attribute(path)
    return str(caught.value)


def test_an_attribute_of_a_module():
    assert import_attribute("pathlib:Path") is Path


def test_an_attribute_of_a_submodule():
    assert import_attribute("collections.abc:Callable") is Callable


def test_a_value_that_is_false_is_a_value(write_module):
    write_module("importing_values.py", "nothing, no, zero = None, False, 0\n")
    found = [import_attribute(f"importing_values:{name}") for name in ("nothing", "no", "zero")]
    assert found == [None, False, 0]


@pytest.mark.parametrize(
    "path",
    ["", ":", "pathlib", "pathlib.Path", "pathlib:", ":Path", "pathlib/Path"],
)
def test_another_form_is_refused_with_the_right_one(path):
    assert _message(path) == f"{path!r} is not of the form package.module:attribute"


def test_a_module_that_is_not_there_is_named_with_where_it_was_looked_for():
    message = _message("importing_absent:model")
    assert message == (
        "'importing_absent:model': there is no module 'importing_absent'; modules are looked for "
        "beside the config file and among what is installed"
    )


@pytest.mark.parametrize(
    ("path", "absent"),
    [
        ("importing_absent.below.deeper:model", "importing_absent"),
        ("json.importing_absent:model", "json.importing_absent"),
        ("json.decoder.importing_absent:model", "json.decoder.importing_absent"),
    ],
)
def test_the_first_part_of_the_path_that_is_missing_is_named(path, absent):
    assert f"there is no module {absent!r};" in _message(path)


def test_a_module_that_needs_another_is_not_called_missing(write_module):
    write_module("importing_needs.py", "import importing_not_installed\n")
    assert _message("importing_needs:model") == (
        "'importing_needs:model': importing importing_needs failed, because it needs "
        "'importing_not_installed', which is not installed"
    )


def test_a_module_that_needs_an_absent_sibling_is_not_called_missing(write_module):
    write_module("importing_package/__init__.py", "")
    write_module("importing_package/one.py", "import importing_package.two\n")
    assert "because it needs 'importing_package.two', which is not installed" in _message(
        "importing_package.one:model"
    )


def test_a_module_whose_name_another_begins_with_is_told_apart(write_module):
    # importing_pre is no parent of importing_prefix, though its name begins that one's.
    write_module("importing_prefix.py", "import importing_pre\n")
    assert "because it needs 'importing_pre'" in _message("importing_prefix:model")


def test_a_missing_module_without_a_name_is_reported_all_the_same(write_module):
    write_module("importing_nameless.py", "raise ModuleNotFoundError('who knows')\n")
    assert "importing importing_nameless failed" in _message("importing_nameless:model")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('no such luck')\n", "RuntimeError: no such luck"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def model(:\n", "SyntaxError: "),
        ("import sys\nsys.exit(2)\n", "SystemExit: 2"),
        ("from pathlib import importing_absent\n", "ImportError: cannot import name"),
    ],
    ids=["raises", "divides", "syntax", "exits", "import-from"],
)
def test_a_module_that_fails_is_reported_with_its_own_reason(write_module, text, reason):
    write_module("importing_fails.py", text)
    message = _message("importing_fails:model")
    assert message.startswith("'importing_fails:model': importing importing_fails failed: ")
    assert reason in message


def test_the_cause_is_kept_for_the_log(write_module):
    write_module("importing_chained.py", "raise RuntimeError('no such luck')\n")
    with pytest.raises(LoadError) as caught:
        import_attribute("importing_chained:model")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_relative_path_is_refused():
    assert "importing .models failed: TypeError: " in _message(".models:tiny")


def test_an_absent_attribute_is_named_with_the_nearest():
    assert _message("pathlib:Pth") == "'pathlib:Pth': pathlib has no 'Pth'; did you mean 'Path'?"


def test_an_absent_attribute_like_no_other_gets_no_hint():
    assert re.search(r"has no 'zzzzzzzz'$", _message("pathlib:zzzzzzzz"))


def test_everything_after_the_first_colon_is_the_attribute():
    assert "pathlib has no 'Path:home'" in _message("pathlib:Path:home")

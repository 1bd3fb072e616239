from pathlib import Path
from typing import Any

import pytest
import torch

from tests.loading.projects import ANSWERS, write_zip

BUILD = "from answers import Answers\ndef build():\n    return Answers(3)"


@pytest.fixture(autouse=True)
def _empty_cache(cache: Path) -> None:
    """Unpack into a folder of the test's own."""


def answer(module: torch.nn.Module) -> float:
    return float(module(torch.zeros(1, 1)))


@pytest.mark.parametrize("entry", ["model:build", "model:Net", "model:NET"])
def test_a_function_a_class_and_an_instance(load, tmp_path, entry):
    source = f"{BUILD}\nclass Net(Answers):\n def __init__(self):\n  super().__init__(3)\n"
    source += "NET = Net()"
    write_zip(tmp_path / "project.zip", model=source, answers=ANSWERS)
    assert answer(load(source="project.zip", entry=entry)) == 3


@pytest.mark.parametrize("entry", ["model:build", "flowers.model:build"])
def test_a_folder_around_everything_is_understood(load, tmp_path, entry):
    members = {"flowers/model": BUILD, "flowers/answers": ANSWERS, "__MACOSX/._x": ""}
    write_zip(tmp_path / "project.zip", **members)
    assert answer(load(source="project.zip", entry=entry)) == 3


def test_a_folder_of_sources_is_searched_as_for_a_script(load, tmp_path):
    members = {"src/model": BUILD, "src/answers": ANSWERS, "README.md": "", "setup": ""}
    write_zip(tmp_path / "project.zip", **members)
    assert answer(load(source="project.zip", entry="src.model:build")) == 3


def test_a_package_with_relative_imports(load, tmp_path):
    members = {
        "net/__init__": "",
        "net/model": "from .parts.answers import Answers\nfrom shared import N\n"
        "def build():\n    return Answers(N)",
        "net/parts/__init__": "",
        "net/parts/answers": ANSWERS,
        "shared": "N = 4",
    }
    write_zip(tmp_path / "project.zip", **members)
    assert answer(load(source="project.zip", entry="net.model:build")) == 4


LATE = """
from answers import Answers
class Late(Answers):
    def forward(self, batch):
        import late
        return super().forward(batch) + late.N
def build():
    return Late(0)
"""


def test_two_versions_keep_their_own_modules_even_those_imported_while_they_run(load, tmp_path):
    for number in (1, 2):
        write_zip(tmp_path / f"{number}.zip", model=LATE, answers=ANSWERS, late=f"N = {number}")
    one, two = (load(source=f"{number}.zip", entry="model:build") for number in (1, 2))
    assert [answer(two), answer(one), answer(two)] == [2, 1, 2]


async def test_two_versions_are_served_beside_each_other(serve, configure, tmp_path):
    for number in (1, 2):
        write_zip(tmp_path / f"{number}.zip", model=LATE, answers=ANSWERS, late=f"N = {number}")
    described = {"entry": "model:build", "input_shape": [1], "batching": {"max_batch_size": 2}}
    models = [configure(source=f"{n}.zip", version=str(n), **described).models[0] for n in (1, 2)]
    client = await serve(configure().model_copy(update={"models": models}))
    for number in (2, 1):
        path = f"/models/tiny/versions/{number}/predict"
        answered = await (await client.post(path, json={"input": [0]})).json()
        assert answered["output"] == [number]


def test_a_project_that_was_changed_is_loaded_anew(load, tmp_path):
    for number in (1, 2):
        write_zip(tmp_path / "project.zip", model=LATE, answers=ANSWERS, late=f"N = {number}")
        assert answer(load(source="project.zip", entry="model:build")) == number


def test_nothing_is_written_beside_the_zip(load, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = write_zip(tmp_path / "work" / "project.zip", model=BUILD, answers=ANSWERS)
    load(source=str(path), entry="model:build")
    assert list((tmp_path / "work").iterdir()) == [path]


WHOLE = """
from pathlib import Path
import torch
from answers import Answers
HERE = Path(__file__).parent
def train():
    torch.save(Answers(5), HERE / "whole.pt")
def build():
    return torch.load(HERE / "whole.pt", weights_only=False)
"""


def test_a_project_reads_what_it_has_pickled_by_name(load, tmp_path):
    trained = {"answers": ANSWERS, "model": WHOLE}
    for name, source in trained.items():
        (tmp_path / f"{name}.py").write_text(source)
    content = _pickled_by_a_script(tmp_path)
    write_zip(tmp_path / "project.zip", **trained, **{"whole.pt": content})
    assert answer(load(source="project.zip", entry="model:build")) == 5


def _pickled_by_a_script(folder: Path) -> bytes:
    """Return what train() writes where the modules have their plain names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        names: dict[str, Any] = {"__name__": "model", "__file__": str(folder / "model.py")}
        exec(WHOLE + "train()", names)
        patch.delitem(__import__("sys").modules, "answers")
    return (folder / "whole.pt").read_bytes()


def test_weights_beside_a_project(load, tmp_path):
    linear = torch.nn.Linear(3, 2)
    torch.save(linear.state_dict(), tmp_path / "weights.pt")
    source = "import torch\ndef build():\n    return torch.nn.Linear(3, 2)"
    write_zip(tmp_path / "project.zip", model=source)
    loaded = load(source="project.zip", entry="model:build", weights="weights.pt")
    torch.testing.assert_close(loaded(torch.ones(1, 3)), linear(torch.ones(1, 3)))


# What goes wrong


def test_a_project_without_an_entry_is_told_what_to_write(refused, tmp_path):
    members = {"train": "", "flowers/model": "", "data.txt": "", "__MACOSX/._train.py": ""}
    path = write_zip(tmp_path / "project.zip", **members)
    assert refused(source="project.zip") == (
        f"model tiny: {path} is a zip of a project; set entry: to what makes the model, as in "
        f'"model:build" for the function or class build in model.py; it holds flowers/model.py, '
        f"train.py"
    )


MESSAGES = {
    "modle:build": "entry 'modle:build': there is no module 'modle' in it; did you mean 'model'?",
    "net.modl:build": "there is no module 'net.modl' in it; did you mean 'net.model'?",
    "zzzzz:build": "there is no module 'zzzzz' in it; there are answers, broken, data,",
    "model:biuld": "entry 'model:biuld': the module has no 'biuld'; did you mean 'build'?",
    "model:zzzzz": "the module has no 'zzzzz'; there are build, seven, fails, leaves",
    "model:NUMBER": "'model:NUMBER' is neither a torch.nn.Module nor callable",
    "model:seven": "'model:seven' returned int, not a torch.nn.Module",
    "model:fails": "'model:fails' failed when it was called without arguments: ValueError: no luck",
    "needy:build": "importing needy failed, because it needs 'not_installed', which is neither in "
    "the zip nor installed",
    "needy2:build": "importing needy2 failed, because it needs 'answers.more', which is neither in",
    "broken:build": "importing broken failed: SyntaxError: ",
    "script:build": "importing script failed: SystemExit: 2",
    "model:leaves": "failed when it was called without arguments: SystemExit: 1",
    "data:build": "importing data failed: FileNotFoundError: [Errno 2] No such file or directory: "
    "'labels.txt'; the project has it, but not where the server was started: open "
    "Path(__file__).parent / 'labels.txt'",
}


@pytest.mark.parametrize(("entry", "message"), MESSAGES.items())
def test_what_is_wrong_with_an_entry_is_told(refused, tmp_path, entry, message):
    more = "\nNUMBER = 7\ndef seven():\n    return 7\ndef fails():\n    raise ValueError('no luck')"
    more += "\ndef leaves():\n    raise SystemExit(1)"
    members = {
        "model": BUILD + more,
        "answers": ANSWERS,
        "needy": "import not_installed",
        "needy2": "import answers.more",
        "broken": "def",
        "script": "import sys\nsys.exit(2)",
        "data": "open('labels.txt')",
        "labels.txt": "espresso",
        "net/model": "",
    }
    path = write_zip(tmp_path / "project.zip", **members)
    shown = refused(source="project.zip", entry=entry)
    assert shown.startswith(f"model tiny: {path}: ")
    assert message in shown
    assert "batchserve_project" not in shown


def test_a_file_that_a_call_does_not_find_is_told_where_it_is(refused, tmp_path):
    source = "def build():\n    return open('data/labels.txt')"
    write_zip(tmp_path / "project.zip", model=source, **{"data/labels.txt": "espresso"})
    assert "open Path(__file__).parent / 'data/labels.txt'" in refused(
        source="project.zip", entry="model:build"
    )


def test_a_file_that_nobody_has_gets_no_such_advice(refused, tmp_path):
    write_zip(tmp_path / "project.zip", model="def build():\n    return open('labels.txt')")
    assert "Path(__file__)" not in refused(source="project.zip", entry="model:build")

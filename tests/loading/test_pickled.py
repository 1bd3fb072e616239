import io
import pickle
import subprocess
import sys
import types
from pathlib import Path

import dill
import pytest
import torch

from tests.loading.models import Evil, Small, assert_same


def test_a_whole_module_is_refused_with_both_ways_out(refused, save, tmp_path, trained):
    save("model.pt", trained)
    assert refused(source="model.pt") == (
        f"model tiny: {tmp_path / 'model.pt'} holds more than weights (tests.loading.models.Small)"
        f": a whole pickled module, which runs whatever code the file contains when it is loaded. "
        f"If you trust its origin, set trust: true; better, save model.state_dict() and name its "
        f"architecture"
    )


def test_a_whole_module_that_is_trusted(load, save, trained):
    save("model.pt", trained.train())
    loaded = load(source="model.pt", trust=True)
    assert isinstance(loaded, Small)
    assert_same(loaded, trained.eval())


def test_a_module_saved_in_data_parallel_is_taken_out(load, save, trained):
    save("model.pt", torch.nn.DataParallel(trained))
    assert isinstance(load(source="model.pt", trust=True), Small)


def test_trust_changes_nothing_for_weights(load, save, trained):
    save("model.pt", trained.state_dict())
    loaded = load(source="model.pt", architecture="tests.loading.models:make", trust=True)
    assert_same(loaded, trained)


def test_weights_from_a_whole_module_that_is_trusted(load, save, trained):
    weights = save("model.pt", trained)
    loaded = load(source="tests.loading.models:make", weights=weights, trust=True)
    assert_same(loaded, trained)


def _saved(evil: Evil, path: Path) -> None:
    torch.save(evil, path)


def _saved_before_zip(evil: Evil, path: Path) -> None:
    torch.save(evil, path, _use_new_zipfile_serialization=False)


def _saved_among_weights(evil: Evil, path: Path) -> None:
    torch.save({"state_dict": Small().state_dict(), "args": evil}, path)


def _pickled(evil: Evil, path: Path) -> None:
    path.write_bytes(pickle.dumps(evil))


EVIL_FILES = pytest.mark.parametrize(
    "write", [_saved, _saved_before_zip, _saved_among_weights, _pickled]
)


@EVIL_FILES
@pytest.mark.parametrize(
    "model",
    [
        {"source": "evil.pt"},
        {"source": "evil.pt", "architecture": "tests.loading.models:make"},
        {"source": "tests.loading.models:make", "weights": "evil.pt"},
        {"source": "torchvision:squeezenet1_1", "weights": "evil.pt"},
    ],
    ids=["source", "architecture", "weights", "torchvision"],
)
def test_a_file_that_is_not_trusted_runs_no_code(refused, tmp_path, write, model):
    victim = tmp_path / "victim"
    write(Evil(victim), tmp_path / "evil.pt")
    assert "evil.pt" in refused(**model)
    assert not victim.exists()


@pytest.mark.parametrize("write", [_saved, _saved_before_zip, _saved_among_weights])
def test_the_files_of_the_test_above_would_run_code_if_trusted(refused, tmp_path, write):
    victim = tmp_path / "victim"
    write(Evil(victim), tmp_path / "evil.pt")
    refused(source="evil.pt", trust=True)
    assert victim.is_dir()


# What a file needs that is not there


SCRIPT = """
import sys, dill, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 2)
        self.act = lambda out: out.relu()
    def forward(self, batch):
        return self.act(self.fc(batch))
net = Net()
torch.save(net(torch.ones(1, 3)), "answer.pt")
torch.save(net, "saved.pt", pickle_module=dill)
torch.save(net, "old.pt", pickle_module=dill, _use_new_zipfile_serialization=False)
dill.dump(net, open("dumped.pt", "wb"))
del net.act
torch.save(net, "without.pt")
"""


@pytest.fixture(scope="module")
def trained_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a script has saved that defines its own class."""
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, cwd=folder)
    return folder


@pytest.mark.parametrize("name", ["saved.pt", "old.pt", "dumped.pt"])
def test_dill_takes_along_the_class_that_a_script_defines(load, refused, trained_elsewhere, name):
    source = str(trained_elsewhere / name)
    assert "set trust: true" in refused(source=source)
    loaded = load(source=source, trust=True)
    expected = torch.load(trained_elsewhere / "answer.pt")
    torch.testing.assert_close(loaded(torch.ones(1, 3)), expected)


@pytest.mark.parametrize("write", ["torch.save", "dill.dump"])
def test_without_dill_the_extra_is_named(refused, tmp_path, monkeypatch, write):
    if write == "torch.save":
        torch.save(lambda: 1, tmp_path / "model.pt", pickle_module=dill)
    else:
        (tmp_path / "model.pt").write_bytes(dill.dumps(lambda: 1))
    monkeypatch.setitem(sys.modules, "dill", None)
    message = refused(source="model.pt", trust=True)
    assert "was written with dill" in message
    assert "pip install 'batchserve[dill]'" in message


def test_a_class_of_the_script_that_saved_it_is_named(refused, trained_elsewhere):
    path = trained_elsewhere / "without.pt"
    assert refused(source=str(path), trust=True) == (
        f"model tiny: {path} needs the class 'Net' of the script that saved it, "
        f"which is not there; save model.state_dict() instead and name its architecture, or save "
        f"it with dill"
    )


@pytest.fixture
def flowers(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with a class of models, which the server will not have."""
    module = types.ModuleType("flowers")
    monkeypatch.setitem(sys.modules, "flowers", module)
    module.Net = type("Net", (torch.nn.Linear,), {"__module__": "flowers"})  # type: ignore[attr-defined]
    return module


def test_a_module_that_is_not_there_is_named(refused, save, tmp_path, monkeypatch, flowers):
    save("model.pt", flowers.Net(3, 2))
    monkeypatch.delitem(sys.modules, "flowers")
    assert refused(source="model.pt", trust=True) == (
        f"model tiny: {tmp_path / 'model.pt'} needs the Python module 'flowers', in which its "
        f"classes were defined; put it beside the config file, or install it"
    )


def test_a_class_that_its_module_has_no_more_is_named(refused, save, monkeypatch, flowers):
    save("model.pt", flowers.Net(3, 2))
    monkeypatch.delattr(flowers, "Net")
    message = refused(source="model.pt", trust=True)
    assert "needs the class 'Net' of the module 'flowers', which is not there" in message


def test_a_plain_pickle_that_is_trusted(load, tmp_path, trained):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(trained))
    assert_same(load(source="model.pkl", trust=True), trained)


def test_a_dill_far_into_a_file_is_seen(load, tmp_path, trained, monkeypatch):
    # The name may lie on both sides of what is read at a time.
    buffer = io.BytesIO()
    trained.note = "x" * 2**20
    trained.act = lambda out: out
    torch.save(trained, buffer, pickle_module=dill)
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    assert_same(load(source="model.pt", trust=True), trained)


@pytest.mark.parametrize("held", [7, {"vocabulary": {"a": 1}}])
def test_a_trusted_pickle_of_something_else_is_told_what_it_holds(refused, tmp_path, held):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(held))
    message = refused(source="model.pkl", architecture="tests.loading.models:make", trust=True)
    assert f"holds {type(held).__name__}, not a state_dict" in message

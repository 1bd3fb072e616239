"""`batchserve tune`, as people use it."""

import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from batchserve.cli import main
from batchserve.config_file import read_config
from batchserve.runners.candidate import Candidate, Subject, items_for
from batchserve.tasks.tensor import TensorTask
from tests.conftest import ROOT

Tune = Callable[..., Result]
MODEL = """\
# Ours.
models:
  - name: wide   # 512 numbers to 64
    device: cpu
    source: tuned_here:build
    batching:
      max_queue_size: 8
"""
MODULE = """\
import torch
def build():
    return torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64))
"""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "tuned_here.py").write_text(MODULE)
    config = tmp_path / "config.yaml"
    config.write_text(MODEL)
    return config


@pytest.fixture
def tune(path: Path, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """Return a function that tunes a small model; without a compiler, unless one is named."""
    monkeypatch.setenv("COLUMNS", "80")
    # Whoever says something of it is not asked to begin anew.
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path.parent / "cache"))
    monkeypatch.syspath_prepend(path.parent)

    def call(*options: str) -> Result:
        with warnings.catch_warnings():
            # torch's quantised kernels warn of their own parts.
            warnings.simplefilter("ignore")
            return CliRunner().invoke(main, ["tune", str(path), "--budget", "20", *options])

    return call


def numbers(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up because it is slow, as bf16 is on some machines."""
    for name in ("HOPELESS_ALONE", "HOPELESS", "HOPELESS_AFTER_A_ROUND"):
        monkeypatch.setattr(f"batchserve.tuning.sweep.{name}", 1e9)


@pytest.mark.usefixtures("patient")
def test_a_model_is_measured_in_all_ways_and_the_config_written(tune: Tune, path: Path):
    out, picture = path.with_name("out.json"), path.with_name("tune.svg")
    result = tune("--json", str(out), "--plot", str(picture), "--write")
    assert result.exit_code == 0, result.output
    found = numbers(out)
    tried = {one["variant"]: one for one in found["variants"]}
    assert {*tried} == {"fp32", "bf16", "fp32 int8-dynamic"}
    plain = tried["fp32"]
    assert plain["difference"] == {
        "largest": 0.0, "magnitude": plain["difference"]["magnitude"], "inputs": 8,
        "same_best": None, "lead": 0.0,
    }  # fmt: skip
    assert 0 < tried["bf16"]["difference"]["largest"] < 0.1
    assert tried["bf16"]["bytes"] * 2 == plain["bytes"]
    assert {cell["batch_size"] for cell in plain["cells"]} == {1, 2, 4, 8}
    assert all(size > 0 for cell in plain["cells"] for size in cell["seconds"])
    assert all(line in result.output for line in ("items/s", "differs", "threads", "alone"))
    assert f"written into {path}" in result.output.replace("\n", "")

    text = path.read_text()
    assert "# Ours." in text
    assert "- name: wide   # 512 numbers to 64" in text
    model = read_config(path, {}).models[0]
    changed = {**found["changes"]["model"], **found["changes"]["server"]}
    batching = changed.pop("batching")
    assert model.batching.max_batch_size == batching["max_batch_size"]
    for key, value in changed.items():
        assert getattr(read_config(path, {}).server if "threads" in key else model, key) == value
    drawn = picture.read_text()
    assert all(name in drawn for name in tried)
    assert "(recommended)" in drawn


@pytest.mark.usefixtures("patient")
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_tried_frozen_and_needs_no_compiler(
    tune: Tune, path: Path, monkeypatch: pytest.MonkeyPatch
):
    # However much faster it is on this machine.
    monkeypatch.setattr("batchserve.tuning.choice.WORTH", -1e9)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()]
    torch.jit.script(torch.nn.Sequential(*layers)).save(path.with_name("net.pt"))
    described = MODEL.replace("tuned_here:build", "net.pt\n    input_shape: [3, 8, 8]")
    path.write_text(described + "    precision: fp32\n")
    out = path.with_name("out.json")
    result = tune("--json", str(out))
    assert result.exit_code == 0, result.output
    found = numbers(out)
    tried = {one["variant"]: one for one in found["variants"]}
    compiled = {name for name in tried if name.startswith("fp32") and name.endswith("compile")}
    (name,) = compiled
    assert tried[name]["bytes"] == tried["fp32"]["bytes"] > 0
    assert tried[name]["difference"]["largest"] < 1e-5
    assert "C++ compiler" not in result.output
    assert not path.with_name("cache").exists()
    if found["recommended"] == "fp32 channels_last compile":
        assert found["changes"]["model"] == {"compile": True, "channels_last": True}


def test_a_line_for_each_variant_is_no_wider_than_a_terminal(tune: Tune):
    result = tune()
    (head,) = [line for line in result.output.splitlines() if line.startswith("variant")]
    assert len(head) <= 80
    assert head.split()[-1] == "s"


def test_interrupting_shows_what_has_been_measured(tune: Tune, monkeypatch: pytest.MonkeyPatch):
    measured = Candidate.seconds
    calls = 0

    def seconds(self: Candidate, threads: int, size: int) -> float:
        nonlocal calls
        calls += 1
        if calls == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return measured(self, threads, size)

    monkeypatch.setattr(Candidate, "seconds", seconds)
    result = tune()
    assert result.exit_code == 0, result.output
    assert "interrupted: this is what has been measured so far" in result.output
    assert "fp32 " in result.output


class Stops(torch.nn.Module):
    """A model in whose pass somebody presses Ctrl-C."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return batch


@pytest.mark.usefixtures("path")
def test_an_interrupt_during_a_pass_is_not_taken_for_the_models_fault(configure):
    assert threading.current_thread() is threading.main_thread()
    model = configure(source="tests.tuning.test_command:Stops", input_shape=[2]).models[0]
    candidate = Subject(model).make(model, threads=1)
    with pytest.raises(KeyboardInterrupt):
        candidate.answers()


def test_a_model_whose_input_nobody_knows_is_told(tune: Tune, path: Path):
    path.write_text("models: [{name: any, source: 'tests.models:Double', device: cpu}]")
    result = tune()
    assert result.exit_code == 1
    assert "set input_shape" in result.output


def test_options_are_checked_before_anything_is_measured(tune: Tune):
    result = tune("--model", "other")
    assert result.exit_code == 1
    assert "--model other: the config has wide" in result.output
    assert "the ending must be one of .svg" in tune("--plot", "x.gif").output
    assert "--json" in tune("--json", "/nowhere/x.json", "--budget", "0.1").output


def test_images_are_tried_with_photos_and_their_mirror_images(shipped_config):
    model = shipped_config.models[0].model_copy(
        update={"source": "tests.models:MeanColour", "labels": None, "device": "cpu"}
    )
    subject = Subject(model)
    assert len(subject.items) == 6
    assert len({tuple(item.flatten().tolist()) for item in subject.items}) == 6
    candidate = subject.make(model, threads=1)
    difference = candidate.differs(candidate.answers())
    assert (difference.largest, difference.same_best, difference.inputs) == (0.0, 6, 6)


def test_other_inputs_are_the_example_and_random_ones():
    first, *others = items_for(TensorTask((3,)))
    assert first.tolist() == [0, 0, 0]
    assert len({tuple(item.tolist()) for item in others}) == 7
    assert items_for(TensorTask()) == []


def test_programs_are_asked_no_more_at_once_than_they_take(configure):
    model = configure(source="tests.models:tiny").models[0]
    subject = Subject(model)
    candidate = subject.make(model, threads=1)
    whole = torch.stack(candidate.answers())
    candidate._most = 3
    torch.testing.assert_close(torch.stack(candidate.answers()), whole)


def test_it_measures_with_the_allocator_that_serves(tune: Tune, monkeypatch):
    class Asked(Exception):
        pass

    def ask() -> None:
        raise Asked

    monkeypatch.setattr("batchserve.tuning.command.use_tcmalloc", ask)
    assert isinstance(tune().exception, Asked)


def test_it_is_named_where_commands_are():
    assert "batchserve tune" in (ROOT / "docs" / "tuning.md").read_text()

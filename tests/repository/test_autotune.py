"""A short search at start, for what keeps the answers."""

import math
import os
from pathlib import Path

import pytest
import torch

from batchserve.loading import Compiled, is_compiled, remember_compiled
from batchserve.repository import ModelRepository
from batchserve.runners import autotune as at_start
from batchserve.runners.autotune import Tuned, autotune
from batchserve.runners.forward import Forward
from batchserve.runners.sharing import Sharing, use
from batchserve.tasks.tensor import TensorTask

ITEMS = [torch.randn(10) for _ in range(4)]


@pytest.fixture
def model(configure, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return configure(autotune=True).models[0]


def forward_of(module: torch.nn.Module) -> Forward:
    return Forward(module, TensorTask((10,)), torch.device("cpu"), torch.float32, threads=1)


class Adds(torch.nn.Module):
    by = 1.0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch + self.by


class AddsWhenCompiled(Compiled):
    """Answers otherwise once it is compiled."""

    def compile_what_comes(self, *, fixed_shape: bool = False) -> None:
        del fixed_shape
        self._call = Adds().__call__


def test_compiled_code_that_answers_otherwise_is_not_used():
    forward = forward_of(AddsWhenCompiled(torch.nn.Identity()))
    tuned = autotune(forward, ITEMS, lambda _threads: True, compiles_anyway=False)
    assert tuned.compiled is False
    assert not forward.may_compile
    torch.testing.assert_close(torch.stack(forward(ITEMS)), torch.stack(ITEMS))


def test_compiled_code_that_fails_is_not_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Adds, "by", "no number")
    forward = forward_of(AddsWhenCompiled(torch.nn.Identity()))
    assert not autotune(forward, ITEMS, lambda _threads: True, compiles_anyway=False).compiled
    assert not forward.may_compile


@pytest.mark.parametrize(("taken_s", "used"), [((0.2, 0.1), True), ((0.1, 0.095), False)])
def test_compiled_code_must_be_faster(monkeypatch: pytest.MonkeyPatch, taken_s, used):
    monkeypatch.setattr(Adds, "by", 0.0)
    times = iter(taken_s)
    monkeypatch.setattr(at_start, "_seconds", lambda *_args: next(times))
    forward = forward_of(AddsWhenCompiled(torch.nn.Identity()))
    tuned = autotune(forward, ITEMS, lambda _threads: True, compiles_anyway=False)
    assert tuned == Tuned(compiled=used, gain=taken_s[0] / taken_s[1])
    assert forward.may_compile is used


@pytest.mark.parametrize(("taken_s", "lone"), [((0.2, 0.1), 1), ((0.1, 0.2), 2)])
def test_a_lone_batch_runs_in_code_that_is_there(monkeypatch: pytest.MonkeyPatch, taken_s, lone):
    monkeypatch.setattr(Adds, "by", 0.0)
    times = iter(taken_s)
    monkeypatch.setattr(at_start, "_seconds", lambda *_args: next(times))
    forward = forward_of(AddsWhenCompiled(torch.nn.Identity()))
    use(forward, Sharing(2, 1, 2))
    autotune(forward, ITEMS, lambda threads: threads == 1, compiles_anyway=False)
    assert (forward.streams, forward.threads, forward.all_threads) == (2, 1, lone)


def test_nobody_waits_for_a_compiler():
    forward = forward_of(AddsWhenCompiled(torch.nn.Identity()))
    tuned = autotune(forward, ITEMS, lambda _threads: False, compiles_anyway=False)
    assert str(tuned) == "not compiled"
    assert not forward.may_compile


def test_it_is_told_in_a_line():
    assert str(Tuned(compiled=True, gain=1.5)) == "compiled: that is 1.50 times as fast"


def test_what_was_compiled_is_known_again_unless_something_has_changed(model):
    assert not is_compiled(model, 1, channels_last=False)
    remember_compiled(model, 1, channels_last=False)
    assert is_compiled(model, 1, channels_last=False)
    renamed = model.model_copy(update={"name": "other", "compile": True, "autotune": False})
    assert is_compiled(renamed, 1, channels_last=False)
    assert not is_compiled(model, 2, channels_last=False)
    assert not is_compiled(model, 1, channels_last=True)
    assert not is_compiled(model.model_copy(update={"precision": "bf16"}), 1, channels_last=False)


def test_another_file_was_not_compiled(model, tmp_path: Path):
    path = tmp_path / "model.pt"
    path.touch()
    of_a_file = model.model_copy(update={"source": str(path)})
    remember_compiled(of_a_file, 1, channels_last=False)
    os.utime(path, ns=(1, 1))
    assert not is_compiled(of_a_file, 1, channels_last=False)


async def test_a_start_without_anything_compiled_chooses_how_cores_are_shared(model, caplog):
    repository = ModelRepository([model], threads=1)
    with caplog.at_level("INFO"):
        await repository.load()
    assert "tiny:1 cores: one batch at a time, on 1 core" in caplog.text
    assert "tiny:1 autotune: not compiled" in caplog.text
    (version,) = repository.versions
    assert version.ready
    assert math.isfinite(version.forward_s[4])
    await repository.close()


def test_what_is_chosen_by_measurement_is_not_reproducible(configure):
    with pytest.raises(ValueError, match="leave out one of them"):
        configure(autotune=True, reproducible=True)

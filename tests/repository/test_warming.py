"""How a pass uses the cores is chosen before all sizes are tried."""

import time

import pytest
import torch
from torch import Tensor, nn

from batchserve.repository.warming import warm
from batchserve.runners.forward import Forward
from batchserve.tasks.tensor import TensorTask
from tests.runners.takes import Takes

CPU = torch.device("cpu")
FASTER, SLOWER = {1: 0.02, 2: 0.004}, {1: 0.002, 2: 0.02}


@pytest.fixture(autouse=True)
def _restore():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def warmed(config, seconds: dict[int, float], pad_to: int | None = None) -> tuple[Forward, Takes]:
    module, task = Takes(seconds), TensorTask((3,))
    forward = Forward(module, task, CPU, torch.float32, pad_to, threads=2)
    warm(config, task, forward, 8, lambda _done, _of: None)
    return forward, module


@pytest.fixture
def _splits(monkeypatch):
    monkeypatch.setattr(
        "batchserve.runners.split_choice._gain", lambda _forward, _items, _split: 1.2
    )
    monkeypatch.setattr("batchserve.runners.split_choice._check_can_be_split", lambda *_: None)


def test_a_pass_that_is_slower_on_two_threads_runs_on_one(configure):
    forward, module = warmed(configure(batching={"max_batch_size": 4}).models[0], SLOWER)
    assert forward.threads == 1
    module.seen.clear()
    forward([torch.ones(3)] * 4)
    assert module.seen == {1}


def test_answers_that_stay_the_same_to_the_bit_are_computed_as_configured(configure):
    config = configure(batching={"max_batch_size": 4}, reproducible=True).models[0]
    forward, module = warmed(config, {2: 0.001}, pad_to=4)
    assert (forward.threads, forward.split) == (2, None)
    assert module.seen == {2}


@pytest.mark.usefixtures("_splits")
def test_cores_of_which_only_parts_make_good_use_take_a_part_each(configure, caplog):
    class Halves(nn.Module):
        """Takes as long on two threads as on one, and half as long for half the rows."""

        def forward(self, batch: Tensor) -> Tensor:
            time.sleep(0.002 * len(batch))
            return batch

    task = TensorTask((3,))
    forward = Forward(Halves(), task, CPU, torch.float32, threads=2)
    with caplog.at_level("INFO"):
        warm(configure(split_batches=True).models[0], task, forward, 8, lambda _done, _of: None)
    assert (forward.threads, forward.split is not None) == (2, True)
    assert "split_batches: 1.20 times as fast" in caplog.text
    assert "threads: 2, a part of the batch on each" in caplog.text


@pytest.mark.usefixtures("_splits")
def test_batches_stay_whole_where_the_config_says_so(configure, caplog):
    with caplog.at_level("INFO"):
        forward, _ = warmed(configure(split_batches=False).models[0], FASTER)
    assert (forward.threads, forward.split) == (2, None)
    assert "split_batches" not in caplog.text
    assert "threads: 2, each layer on each" in caplog.text


def test_why_batches_stay_whole_is_said(configure, caplog, monkeypatch):
    monkeypatch.setattr("batchserve.runners.split_choice._gain", lambda *_: 0.5)
    with caplog.at_level("INFO"):
        forward, _ = warmed(configure(split_batches=True).models[0], FASTER)
    assert forward.split is None
    assert "split_batches: not used, 0.50 times as fast" in caplog.text


@pytest.mark.usefixtures("_splits")
def test_a_model_of_ones_own_is_split_only_if_asked_for(configure, caplog):
    with caplog.at_level("INFO"):
        forward, _ = warmed(configure().models[0], FASTER)
    assert (forward.threads, forward.split) == (2, None)
    assert "split_batches: not tried, as this model may not stand being called" in caplog.text


@pytest.mark.parametrize("threads", [1, 2])
def test_no_model_has_to_take_what_is_made_up(configure, threads):
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)

        def forward(self, batch: Tensor) -> Tensor:
            embedded: Tensor = self.embedding(batch[:, 0].long())
            return embedded

    config, task = configure(split_batches=True).models[0], TensorTask((3,))
    forward = Forward(Embeds(), task, CPU, torch.float32, threads=threads)
    seconds, _ = warm(config, task, forward, 8, lambda _done, _of: None)
    assert seconds


def test_memory_that_does_not_suffice_for_the_trial_leaves_the_cores_as_configured(configure):
    class Greedy(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            if len(batch) > 2:
                raise MemoryError
            return batch

    config, task = configure(split_batches=True).models[0], TensorTask((3,))
    forward = Forward(Greedy(), task, CPU, torch.float32, threads=2)
    seconds, _ = warm(config, task, forward, 8, lambda _done, _of: None)
    assert (max(seconds), forward.threads, forward.split) == (2, 2, None)

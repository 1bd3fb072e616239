"""How a pass uses the cores is chosen before all sizes are tried."""

import time

import pytest
import torch
from torch import Tensor, nn

from batchserve.repository.warming import warm
from batchserve.runners.forward import Forward
from batchserve.runners.thread_safety import NotSafe
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


def test_a_pass_that_is_slower_on_two_threads_runs_on_one(configure):
    forward, module = warmed(configure(batching={"max_batch_size": 4}).models[0], SLOWER)
    assert forward.threads == 1
    module.seen.clear()
    forward([torch.ones(3)] * 4)
    assert module.seen == {1}


def test_answers_that_stay_the_same_to_the_bit_are_computed_as_configured(configure):
    config = configure(batching={"max_batch_size": 4}, reproducible=True).models[0]
    forward, module = warmed(config, {2: 0.001}, pad_to=4)
    assert (forward.threads, forward.streams) == (2, 1)
    assert module.seen == {2}


class Sleeps(nn.Module):
    """Takes as long on two threads as on one, and lets others run meanwhile."""

    def forward(self, batch: Tensor) -> Tensor:
        time.sleep(0.004)
        return batch


def warmed_sleeper(config) -> Forward:
    task = TensorTask((3,))
    forward = Forward(Sleeps(), task, CPU, torch.float32, threads=2)
    warm(config, task, forward, 8, lambda _done, _of: None)
    return forward


def test_passes_run_at_the_same_time_where_that_pays(configure, caplog):
    with caplog.at_level("INFO"):
        forward = warmed_sleeper(configure(parallel_batches=True).models[0])
    assert (forward.streams, forward.threads, forward.all_threads) == (2, 1, 1)
    assert "cores: 2 batches at the same time, each on 1 core" in caplog.text


def test_they_run_one_by_one_where_the_config_says_so(configure, caplog):
    with caplog.at_level("INFO"):
        forward = warmed_sleeper(configure(parallel_batches=False).models[0])
    assert forward.streams == 1
    assert "parallel_batches" not in caplog.text
    assert "cores: one batch at a time, on 1 core" in caplog.text


def test_why_they_run_one_by_one_is_said(configure, caplog, monkeypatch):
    def refuse(*_) -> None:
        raise NotSafe("it is shy")

    monkeypatch.setattr("batchserve.repository.warming.check_thread_safety", refuse)
    with caplog.at_level("INFO"):
        forward = warmed_sleeper(configure(parallel_batches=True).models[0])
    assert forward.streams == 1
    assert "parallel_batches: not used, it is shy" in caplog.text


def test_a_model_of_ones_own_is_called_from_several_threads_only_if_asked_for(configure, caplog):
    with caplog.at_level("INFO"):
        forward = warmed_sleeper(configure().models[0])
    assert forward.streams == 1
    assert "parallel_batches: not tried, as this model or its task may not" in caplog.text


def test_how_cores_are_shared_is_tried_on_what_the_model_is_known_to_take(configure, caplog):
    class Picky(Sleeps):
        def forward(self, batch: Tensor) -> Tensor:
            if batch.any():
                raise IndexError("index out of range in self")
            return super().forward(batch)

    config, task = configure(parallel_batches=True).models[0], TensorTask((3,))
    forward = Forward(Picky(), task, CPU, torch.float32, threads=2)
    with caplog.at_level("INFO"):
        warm(config, task, forward, 8, lambda _done, _of: None)
    assert "parallel_batches: not used, the trial failed: IndexError" in caplog.text
    assert "cores: one batch at a time, on 1 core" in caplog.text


@pytest.mark.parametrize("threads", [1, 2])
def test_no_model_has_to_take_what_is_made_up(configure, threads):
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)

        def forward(self, batch: Tensor) -> Tensor:
            embedded: Tensor = self.embedding(batch[:, 0].long())
            return embedded

    config, task = configure(parallel_batches=True).models[0], TensorTask((3,))
    forward = Forward(Embeds(), task, CPU, torch.float32, threads=threads)
    seconds, _ = warm(config, task, forward, 8, lambda _done, _of: None)
    assert seconds


def test_memory_that_does_not_suffice_for_the_trial_leaves_the_cores_as_configured(configure):
    class Greedy(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            if len(batch) > 2:
                raise MemoryError
            return batch

    config, task = configure(parallel_batches=True).models[0], TensorTask((3,))
    forward = Forward(Greedy(), task, CPU, torch.float32, threads=2)
    seconds, _ = warm(config, task, forward, 8, lambda _done, _of: None)
    assert (max(seconds), forward.threads, forward.streams) == (2, 2, 1)

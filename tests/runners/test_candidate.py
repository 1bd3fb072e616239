"""Candidates of `tune` are run as the server would run them."""

import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from batchserve.loading import Compiled
from batchserve.runners import candidate
from batchserve.runners.base import RowFault
from batchserve.runners.candidate import Candidate, Subject
from batchserve.runners.forward import Forward
from batchserve.tasks.tensor import TensorTask

ITEMS = [torch.zeros(3)] * 4


@pytest.mark.parametrize(("largest", "tried"), [(None, 8), (4, 4)])
def test_whether_passes_may_run_at_the_same_time_is_tried_once_with_what_the_model_takes(
    configure, monkeypatch, largest, tried
):
    seen = []
    monkeypatch.setattr(
        candidate, "check_thread_safety", lambda _forward, items: seen.append(len(items))
    )
    monkeypatch.setattr(candidate, "largest_batch", lambda _module: largest)
    config = configure(parallel_batches=True).models[0]
    subject = Subject(config)
    for _ in range(2):
        subject.make(config, 2)
    subject.make(config, 1)
    assert seen == [tried]


def test_they_do_not_where_the_config_says_so(configure, monkeypatch):
    monkeypatch.setattr(candidate, "check_thread_safety", lambda *_: pytest.fail("tried"))
    config = configure(parallel_batches=False).models[0]
    Subject(config).make(config, 2)


class Sleeps(nn.Module):
    """Takes as long with any number of threads, and lets others run meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def forward(self, batch: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        time.sleep(0.04)
        return batch


def forward_of(module: nn.Module) -> Forward:
    return Forward(module, TensorTask((3,)), torch.device("cpu"), torch.float32)


def test_of_passes_at_the_same_time_each_has_its_share_of_the_seconds():
    one = Candidate(forward_of(Sleeps()), ITEMS, bytes_=0)
    several = Candidate(forward_of(Sleeps()), ITEMS, bytes_=0, at_once=True)
    assert one.seconds(2, 4) > 0.035
    assert several.seconds(2, 4) < 0.03
    # A single item is timed alone, for that is what it waits.
    assert several.seconds(2, 1) > 0.035


def test_what_is_compiled_is_so_for_a_share_of_the_cores_and_for_a_lone_item():
    module = Sleeps()
    candidate = Candidate(forward_of(Compiled(module)), ITEMS, bytes_=0, at_once=True)
    for size, threads in ((2, 1), (1, 2)):
        module.threads.clear()
        candidate.seconds(2, size)
        assert module.threads == {threads}


def test_an_interruption_ends_the_trial_and_is_not_taken_for_the_models_fault(configure):
    class Interrupted(nn.Linear):
        def forward(self, _: Tensor) -> Tensor:
            raise KeyboardInterrupt

    config = configure(parallel_batches=True).models[0]
    subject = Subject(config)
    subject._module = Interrupted(10, 3)
    with pytest.raises(KeyboardInterrupt):
        subject.make(config, 2)


def test_another_best_class_weighs_by_how_far_it_was_behind():
    before = [torch.tensor([0.50, 0.48, 0.02]), torch.tensor([0.7, 0.2, 0.1])]
    after = [torch.tensor([0.49, 0.50, 0.01]), torch.tensor([0.6, 0.3, 0.1])]
    difference = scored(after).differs(before)
    assert (difference.same_best, difference.inputs) == (1, 2)
    assert difference.lead == pytest.approx(0.02)
    assert scored(before).differs(before).lead == 0
    assert scored([RowFault("NaN"), before[1]]).differs(before).lead == float("inf")


def scored(rows: Sequence[Tensor | RowFault]) -> Candidate:
    """A candidate whose answers are these scores."""
    items = [torch.zeros(1)] * len(rows)
    return Candidate(lambda _: rows, items, bytes_=0, is_scores=True)  # type: ignore[arg-type]

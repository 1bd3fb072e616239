"""Candidates of `tune` are run as the server would run them."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from batchserve.runners import candidate
from batchserve.runners.base import RowFault
from batchserve.runners.candidate import Candidate, Subject


@pytest.mark.parametrize(("largest", "tried"), [(None, 8), (4, 4)])
def test_parts_are_tried_once_with_no_more_items_than_the_model_takes(
    configure, monkeypatch, largest, tried
):
    seen = []
    monkeypatch.setattr(candidate, "choose_split", lambda _forward, items: seen.append(len(items)))
    monkeypatch.setattr(candidate, "largest_batch", lambda _module: largest)
    config = configure(split_batches=True).models[0]
    subject = Subject(config)
    for _ in range(2):
        subject.make(config, 2)
    subject.make(config, 1)
    assert seen == [tried]


def test_batches_stay_whole_where_the_config_says_so(configure, monkeypatch):
    monkeypatch.setattr(candidate, "choose_split", lambda *_: pytest.fail("tried"))
    config = configure(split_batches=False).models[0]
    Subject(config).make(config, 2)


def test_an_interruption_ends_the_trial_and_is_not_taken_for_the_models_fault(configure):
    class Interrupted(nn.Linear):
        def forward(self, _: Tensor) -> Tensor:
            raise KeyboardInterrupt

    config = configure(split_batches=True).models[0]
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

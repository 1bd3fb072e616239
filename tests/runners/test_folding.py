"""Batch norms are folded where the answers stay the same, and only there."""

import pytest
import torch
from torch import Tensor, nn

from batchserve.runners.folding import fold_batch_norms
from batchserve.runners.forward import Forward
from batchserve.runners.reproducible import like
from batchserve.tasks.tensor import TensorTask
from tests.loading.models import Convolved, convolved

TASK = TensorTask((3, 8, 8))
ITEMS = like(torch.zeros(3, 8, 8), 4)


def answers(module: nn.Module) -> Tensor:
    return torch.stack(Forward(module, TASK, torch.device("cpu"), torch.float32)(ITEMS))


@pytest.fixture(autouse=True)
def _restore():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_they_are_folded_and_the_answers_stay():
    module = convolved()
    expected = answers(module)
    folded = fold_batch_norms(module, TASK)
    assert folded is not None
    assert folded.startswith("1 folded into convolutions, answers differ by ")
    assert isinstance(module.get_submodule("norm"), nn.Identity)
    torch.testing.assert_close(answers(module), expected, rtol=1e-5, atol=1e-6)


def test_it_is_tried_on_as_many_cores_as_are_said():
    seen = set()

    class Looks(Convolved):
        def forward(self, batch: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(batch)

    fold_batch_norms(Looks().eval(), TASK, 1)
    fold_batch_norms(Looks().eval(), TASK, 2)
    assert seen == {1, 2}


class Reads(Convolved):
    """Reads what the norm holds, beside calling it."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) + self.norm.eps


class Rescales(Convolved):
    """Has its answer depend on whether there is a norm."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) * len(list(self.buffers()))


class Masks(Rescales):
    """Has a number in its answer that is far larger than all others."""

    def forward(self, batch: Tensor) -> Tensor:
        scores = super().forward(batch)
        scores[:, 0] = -1e9
        return scores


class TellsApart(Rescales):
    """Takes a lone item another way."""

    def forward(self, batch: Tensor) -> Tensor:
        return Convolved.forward(self, batch) if len(batch) == 1 else super().forward(batch)


DIFFERS = "1 not folded into convolutions, answers differ by 1e+00 of the largest number"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Reads, "not folded, as trying it failed: AttributeError: 'Identity' object has no "),
        (Rescales, DIFFERS),
        (Masks, DIFFERS),
        (TellsApart, DIFFERS),
    ],
)
def test_a_model_that_needs_its_norms_keeps_them(kind, said):
    module = kind()
    module.load_state_dict(convolved().state_dict())
    expected = answers(module.eval())
    folded = fold_batch_norms(module, TASK)
    assert folded is not None
    assert folded.startswith(said)
    assert type(module.norm) is nn.BatchNorm2d
    assert torch.equal(answers(module), expected)


class Failed(TensorTask):
    """Has no answer to anything."""

    finite_rows = True


@pytest.mark.parametrize("task", [TASK, Failed((3, 8, 8))])
def test_answers_that_are_no_numbers_prove_nothing(task):
    module = convolved()
    module.fc.weight.data[:] = torch.nan
    folded = fold_batch_norms(module, task)
    assert folded == DIFFERS.replace("1e+00", "inf")
    assert type(module.norm) is nn.BatchNorm2d


def test_the_trial_leaves_nothing_behind_in_the_model():
    class Keeps(Convolved):
        kept: Tensor | None = None

        def forward(self, batch: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = batch.mean()
            return super().forward(batch)

    module = Keeps().eval()
    assert fold_batch_norms(module, TASK) is not None
    assert isinstance(module.get_submodule("norm"), nn.Identity)
    assert module.kept is None


def test_nothing_is_tried_where_there_is_nothing_to_fold_or_to_try_it_on():
    assert fold_batch_norms(nn.Conv2d(3, 4, 3), TASK) is None
    assert fold_batch_norms(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), TASK) is None
    module = convolved()
    # Of other sizes, a layer may be called more often.
    for task in (TensorTask(), TensorTask((3, -1, -1))):
        assert fold_batch_norms(module, task) is None
    assert type(module.norm) is nn.BatchNorm2d


def test_a_model_that_fails_is_left_to_the_warm_up_which_explains_it():
    folded = fold_batch_norms(convolved(), TensorTask((1, 8, 8)))
    assert folded is not None
    assert folded.startswith("not folded, as trying it failed: RuntimeError: ")


def test_numbers_of_half_precision_are_not_rounded_again():
    module = convolved().to(torch.bfloat16)
    folded = fold_batch_norms(module, TASK)
    assert folded is not None
    assert folded.startswith("not folded, as trying it failed: RuntimeError: ")
    assert type(module.norm) is nn.BatchNorm2d


def test_an_interruption_goes_through():
    class Interrupted(Convolved):
        def forward(self, batch: Tensor) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError) as raised:
        fold_batch_norms(Interrupted().eval(), TASK)
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)

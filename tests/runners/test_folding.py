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
    folding = fold_batch_norms(module, TASK)
    assert folding is not None
    assert (folding.norms, folding.used) == (1, True)
    assert str(folding).startswith("1 folded into convolutions, answers differ by ")
    assert isinstance(module.get_submodule("norm"), nn.Identity)
    torch.testing.assert_close(answers(module), expected, rtol=1e-5, atol=1e-6)


class Reads(Convolved):
    """Reads what the norm holds, beside calling it."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) + self.norm.eps


class Rescales(Convolved):
    """Has its answer depend on whether there is a norm."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) * len(list(self.buffers()))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Reads, "1 not folded into convolutions, the model fails then"),
        (Rescales, "1 not folded into convolutions, answers differ by 1e+00 of the largest number"),
    ],
)
def test_a_model_that_needs_its_norms_keeps_them(kind, said):
    module = kind()
    module.load_state_dict(convolved().state_dict())
    expected = answers(module.eval())
    folding = fold_batch_norms(module, TASK)
    assert folding is not None
    assert (str(folding), folding.used) == (said, False)
    assert type(module.norm) is nn.BatchNorm2d
    assert torch.equal(answers(module), expected)


def test_answers_that_are_no_numbers_prove_nothing():
    module = convolved()
    module.fc.weight.data[:] = torch.nan
    folding = fold_batch_norms(module, TASK)
    assert folding is not None
    assert not folding.used
    assert type(module.norm) is nn.BatchNorm2d


def test_nothing_is_tried_where_there_is_nothing_to_fold_or_to_try_it_on():
    assert fold_batch_norms(nn.Conv2d(3, 4, 3), TASK) is None
    assert fold_batch_norms(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), TASK) is None
    module = convolved()
    assert fold_batch_norms(module, TensorTask()) is None
    assert type(module.norm) is nn.BatchNorm2d


def test_a_model_that_fails_is_left_to_the_warm_up_which_explains_it():
    assert fold_batch_norms(convolved(), TensorTask((1, 8, 8))) is None


def test_numbers_of_half_precision_are_not_rounded_again():
    module = convolved().to(torch.bfloat16)
    assert fold_batch_norms(module, TASK) is None
    assert type(module.norm) is nn.BatchNorm2d


def test_an_interruption_goes_through():
    class Interrupted(Convolved):
        def forward(self, batch: Tensor) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError) as raised:
        fold_batch_norms(Interrupted().eval(), TASK)
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)

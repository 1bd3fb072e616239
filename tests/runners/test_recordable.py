"""What a recording cannot hold is seen before it is tried."""

import pytest
import torch
from torch import Tensor, nn

from batchserve.runners.graphs import NotRecordable
from batchserve.runners.recordable import check_recordable
from tests.models import Double, FailsOnNegative, tiny


class Does(nn.Module):
    def __init__(self, what) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.what = what

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.what(self.layer(batch))
        return out


def check(module: nn.Module, inputs: Tensor | None = None) -> None:
    # As in a pass.
    with torch.inference_mode():
        check_recordable(module.eval(), torch.ones(2, 4) if inputs is None else inputs)


@pytest.mark.parametrize(
    "what",
    [
        lambda x: x.relu().reshape(-1, 2, 2).sum(-1),
        lambda x: x[:, torch.arange(2)],
        lambda x: x.masked_fill(x > 0, 1),
        lambda x: x if len(x) > 1 else -x,
        lambda x: x.add_(1).mul(torch.ones(4)),
        lambda x: x + torch.ones((), device="meta").dim(),
        lambda x: nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])[0],
    ],
)
def test_what_happens_on_the_device_can_be_recorded(what):
    check(Does(what))


@pytest.mark.parametrize(
    ("what", "operator"),
    [
        (lambda x: x * x.max().item(), "_local_scalar_dense"),
        (lambda x: x if (x > 0).any() else -x, "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.where(x > 0)[0], "nonzero"),
        (lambda x: x[x > 0], "index"),
        (lambda x: x.index_put_((x > 0,), torch.zeros(())), "index_put_"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: x * torch.equal(x, x), "equal"),
    ],
)
def test_what_waits_for_a_number_cannot(what, operator):
    with pytest.raises(NotRecordable, match=rf"within a pass \(aten::{operator}\)"):
        check(Does(what))


@pytest.mark.parametrize(
    "what",
    [
        lambda x: x + torch.ones(4, device="meta").numel(),
        lambda x: x + x.sum().to("meta").dim(),
        lambda x: x[:, [0, 1]],
        lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_nor_can_what_happens_elsewhere(what):
    with pytest.raises(NotRecordable, match="a part of the model is not on cpu"):
        check(Does(what))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_watched_too():
    check(torch.jit.script(nn.Sequential(nn.Linear(4, 4))))

    class Asks(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            if bool((batch > 0).any()):
                return batch
            return -batch

    with pytest.raises(NotRecordable, match="_local_scalar_dense"):
        check(torch.jit.script(Asks()))


def test_other_errors_are_the_models_own():
    with pytest.raises(NotRecordable):
        check(FailsOnNegative())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        check(tiny())


def test_the_inputs_stay_as_they_are():
    inputs = torch.ones(2, 4)
    check(Does(lambda x: x))
    check(nn.ReLU(inplace=True), -inputs)
    check_recordable(lambda batch: batch.mul_(3), inputs)
    assert inputs.tolist() == torch.ones(2, 4).tolist()


def test_inputs_on_several_devices_are_not_recorded():
    with pytest.raises(NotRecordable, match="not on one device"):
        check_recordable(Double(), (torch.ones(1), torch.ones(1, device="meta")))

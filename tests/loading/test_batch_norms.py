"""Batch norms are found by watching a pass, and done by the convolutions before them."""

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from batchserve.loading import Pair, PassWatcher, fold, has_batch_norms
from tests.loading.models import convolved

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def ready(module: nn.Module, batch: Tensor = IMAGES) -> nn.Module:
    """Give a module's norms statistics that matter, and put it into evaluation mode."""
    torch.manual_seed(7)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.affine:
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    module(5 * batch + 3)
    return module.eval()


@torch.inference_mode()
def seen_pairs(module: nn.Module, batch: Tensor = IMAGES) -> list[Pair]:
    with PassWatcher() as seen:
        module(batch)
    return list(seen.pairs(module))


@torch.inference_mode()
def answers(module: nn.Module, batch: Tensor = IMAGES) -> Tensor:
    out: Tensor = module(batch)
    return out


class Padded(nn.Conv2d):
    """Pads by itself, as networks from TensorFlow do."""

    def forward(self, batch: Tensor) -> Tensor:
        wide = functional.pad(batch, (0, 1, 0, 1))
        assert wide.shape[-1] == wide.size(3)
        return functional.conv2d(wide, self.weight, self.bias, self.stride)


def line(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("module", "batch"),
    [
        (line(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), IMAGES),
        (line(nn.Conv2d(3, 6, 3, bias=False, groups=3), nn.BatchNorm2d(6)), IMAGES),
        (line(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4, affine=False)), IMAGES),
        (line(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)), IMAGES),
        (line(Padded(3, 4, 2, bias=False), nn.BatchNorm2d(4)), IMAGES),
        (line(nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4)), IMAGES[:, 0]),
        (line(nn.Conv3d(2, 4, 3, bias=False), nn.BatchNorm3d(4)), IMAGES[None].expand(3, -1, -1, -1, -1)),  # noqa: E501
    ],
)  # fmt: skip
def test_a_norm_after_a_convolution_is_folded(module, batch):
    module = ready(module, batch)
    expected = answers(module, batch)
    found = seen_pairs(module, batch)
    assert found == [("0", "1")]
    fold(module, found)
    assert isinstance(module[1], nn.Identity)
    torch.testing.assert_close(answers(module, batch), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_others_have_too_stay_what_they_are():
    module = convolved()
    copied = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
    expected = answers(module)
    fold(copied, seen_pairs(copied))
    assert isinstance(copied.norm, nn.Identity)
    assert torch.equal(answers(module), expected)


def test_weights_made_in_inference_are_folded_too():
    with torch.inference_mode():
        module = convolved()
    expected = answers(module)
    fold(module, seen_pairs(module))
    torch.testing.assert_close(answers(module), expected, rtol=1e-5, atol=1e-6)


def test_the_model_keeps_its_class_and_other_layers():
    module = convolved()
    expected = answers(module)
    fold(module, seen_pairs(module))
    assert type(module).__name__ == "Convolved"
    assert [name for name, _ in module.named_parameters()] == [
        "conv.weight", "conv.bias", "fc.weight", "fc.bias",
    ]  # fmt: skip
    torch.testing.assert_close(answers(module), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(answers(copy.deepcopy(module)), answers(module))


class Block(nn.Module):
    """A convolution and a norm, and between them whatever a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(batch))
        return out


class Skips(Block):
    def forward(self, batch: Tensor) -> Tensor:
        convolved = self.conv(batch)
        out: Tensor = self.norm(convolved) + convolved
        return out


class Writes(Block):
    def forward(self, batch: Tensor) -> Tensor:
        convolved = self.conv(batch)
        convolved[:, 0] = 0
        out: Tensor = self.norm(convolved)
        return out


class Activates(Block):
    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(batch).relu())
        return out


class Repeats(Block):
    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(self.conv(batch)))
        return out


class NormsTwice(Block):
    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.norm(self.norm(self.conv(batch)))
        return out


class Penalises(Block):
    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(batch)) * self.conv.weight.norm()
        return out


class NormAct(nn.BatchNorm2d):
    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch).relu()


def with_norm(norm: nn.Module) -> Block:
    block = Block()
    block.norm = norm  # type: ignore[assignment]
    return block


def with_hook(name: str) -> Block:
    block = Block()
    block.get_submodule(name).register_forward_hook(lambda _layer, _args, out: 2 * out)
    return block


def with_computed(name: str) -> Block:
    block = Block()
    block.conv = weight_norm(block.conv, name)
    return block


class StaysInTraining(Block):
    def train(self, mode: bool = True) -> "StaysInTraining":
        super().train(mode)
        self.norm.training = True
        return self


class Asks(Block):
    """Looks at the numbers, by what tells no tensor of them."""

    def __init__(self, ask: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, batch: Tensor) -> Tensor:
        convolved = self.conv(batch)
        self.ask(convolved)
        out: Tensor = self.norm(convolved)
        return out


@pytest.mark.parametrize(
    "module",
    [
        Skips(),
        Writes(),
        Activates(),
        Repeats(),
        NormsTwice(),
        Penalises(),
        with_norm(NormAct(3)),
        with_norm(nn.BatchNorm2d(3, track_running_stats=False)),
        with_norm(nn.InstanceNorm2d(3, track_running_stats=True)),
        with_hook("conv"),
        with_hook("norm"),
        with_computed("weight"),
        with_computed("bias"),
        StaysInTraining(),
        Asks(lambda convolved: torch.equal(convolved, IMAGES)),
        Asks(lambda convolved: 3.0 in convolved),
        Asks(lambda convolved: convolved.data_ptr()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_norm_stays_where_it_or_the_convolution_does_something_else_too(module):
    assert seen_pairs(ready(module)) == []


def test_what_is_told_of_a_tensor_without_its_numbers_is_no_use_of_it():
    class Looks(Block):
        def forward(self, batch: Tensor) -> Tensor:
            convolved = self.conv(batch)
            assert convolved.shape == batch.shape
            assert convolved.size(0) == len(convolved)
            assert convolved.device == batch.device
            assert convolved.dtype.is_floating_point
            assert not convolved.is_cuda
            out: Tensor = self.norm(convolved)
            return out

    module = ready(Looks())
    assert seen_pairs(module) == [("conv", "norm")]


def test_of_two_convolutions_with_one_weight_neither_is_changed():
    module = nn.Sequential(*Block().children(), *Block().children())
    module[2].weight = module[0].weight
    assert seen_pairs(ready(module)) == []


def test_nor_where_only_one_of_them_is_called():
    module = Block()
    module.twin = nn.Conv2d(3, 3, 3)
    module.twin.weight, module.twin.bias = module.conv.weight, module.conv.bias
    assert seen_pairs(ready(module)) == []


def test_what_convolutions_return_is_not_kept():
    kept = []

    class Layers(nn.Sequential):
        def forward(self, batch: Tensor) -> Tensor:
            for layer in self:
                batch = layer(batch)
                kept.append(weakref.ref(batch))
            return batch

    module = ready(Layers(*[layer for _ in range(4) for layer in Block().children()]))
    kept.clear()
    with torch.inference_mode(), PassWatcher() as seen:
        module(IMAGES)
        assert [was() is not None for was in kept] == [False] * 8
    assert len(seen.pairs(module)) == 4


def test_a_norm_that_has_two_names_is_folded_in_both_places():
    module = Block()
    module.alias = module.norm
    expected = answers(ready(module))
    fold(module, seen_pairs(module))
    kinds = [type(child) for child in module._modules.values()]
    assert kinds == [nn.Conv2d, nn.Identity, nn.Identity]
    torch.testing.assert_close(answers(module), expected, rtol=1e-5, atol=1e-5)


def test_tensors_that_are_gone_are_not_taken_for_those_at_their_place():
    """As in a DenseNet, where a norm gets what was put together of earlier outputs."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm2d(3 * (i + 1)) for i in range(12))
            self.convs = nn.ModuleList(nn.Conv2d(3 * (i + 1), 3, 1) for i in range(12))

        def forward(self, batch: Tensor) -> Tensor:
            parts = [batch]
            for norm, conv in zip(self.norms, self.convs, strict=True):
                parts.append(conv(norm(torch.cat(parts, dim=1))))
            return parts[-1]

    assert seen_pairs(ready(Dense())) == []


def test_only_layers_that_can_be_changed_count():
    assert has_batch_norms(convolved())
    assert not has_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    assert not has_batch_norms(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_graph_is_left_as_it_is():
    assert not has_batch_norms(torch.jit.script(convolved()))

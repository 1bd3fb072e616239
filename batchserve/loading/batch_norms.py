"""Batch norms that the convolutions before them can do as well: in evaluation, both are linear."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CALLS = (functional.conv1d, functional.conv2d, functional.conv3d)
# What tells of a tensor what stays true with other numbers in it.
DESCRIBING = {
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.stride, Tensor.__len__),
    *(Tensor.is_contiguous, Tensor.is_floating_point),
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad")
    ),
}


class Pair(NamedTuple):
    """The names of a convolution, and of the batch norm that alone gets what comes of it."""

    convolution: str
    norm: str


class _Output:
    """What a convolution has returned.

    Attributes:
        weight: of the convolution, by identity.
        uses: how often it was part of a call.
        mean: of the batch norm that took it, by identity.
    """

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.uses = 0
        self.mean = 0


class PassWatcher(TorchFunctionMode):
    """Sees what a module calls of torch, on this thread, in a pass made meanwhile.

    What code does that is not Python, as scripted functions, is not seen, nor what a pass of other
    inputs would do: whoever relies on it has to compare the answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._uses: Counter[int] = Counter()  # of tensors, by identity
        self._outputs: list[_Output] = []
        # Of these, those that are not known to be gone, by identity.
        self._there: dict[int, _Output] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in DESCRIBING:
            return result
        given = [id(part) for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        self._uses.update(given)
        for part in given:
            if part in self._there:
                self._there[part].uses += 1
        if func is functional.batch_norm and len(args) > 1 and id(args[0]) in self._there:
            self._there[id(args[0])].mean = id(args[1])
        # A new tensor may have the identity of one that is gone.
        for part in tree_leaves(result):
            self._there.pop(id(part), None)
        if func in CALLS and len(args) > 1:
            self._there[id(result)] = output = _Output(id(args[1]))
            self._outputs.append(output)
        return result

    def pairs(self, module: nn.Module) -> list[Pair]:
        """Return the layers of a module, in evaluation mode, that were seen to be pairs."""
        layers = {name: layer for name, layer in module.named_modules() if not _does_more(layer)}
        convolutions = {
            name: layer for name, layer in layers.items() if isinstance(layer, CONVOLUTIONS)
        }
        by_weight = {id(layer.weight): name for name, layer in convolutions.items()}
        # Not of their subclasses, which may do more.
        by_mean = {
            id(layer.running_mean): name for name, layer in layers.items() if type(layer) in NORMS
        }
        of_weight = Counter(id(layer.weight) for layer in convolutions.values())
        return [
            Pair(by_weight[output.weight], by_mean[output.mean])
            for output in self._outputs
            if output.uses == 1
            and output.mean in by_mean
            and of_weight[output.weight] == 1
            and self._were_used_once(
                output.mean, *map(id, convolutions[by_weight[output.weight]].parameters())
            )
        ]

    def _were_used_once(self, *tensors: int) -> bool:
        return all(self._uses[tensor] == 1 for tensor in tensors)


def has_batch_norms(module: nn.Module) -> bool:
    """Whether a module has convolutions and batch norms, as layers that can be changed."""
    layers = list(module.modules())
    return all(any(isinstance(layer, kinds) for layer in layers) for kinds in (CONVOLUTIONS, NORMS))


@torch.no_grad()
def fold(module: nn.Module, pairs: Iterable[Pair]) -> None:
    """Have convolutions do what the batch norms after them do, in place.

    The module's code stays what it is: in place of a norm, it calls an `Identity`.

    Args:
        module: in evaluation mode.
        pairs: of its layers.
    """
    for pair in pairs:
        convolution: Any = module.get_submodule(pair.convolution)
        norm: Any = module.get_submodule(pair.norm)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias,
            norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
        )  # fmt: skip
        for parent in list(module.modules()):
            for name, layer in list(parent._modules.items()):  # noqa: SLF001
                if layer is norm:
                    parent._modules[name] = nn.Identity()  # noqa: SLF001


def _does_more(layer: nn.Module) -> bool:
    """Whether a layer does something else than its class does in evaluation."""
    is_hooked = layer._forward_hooks or layer._forward_pre_hooks  # noqa: SLF001
    # What is computed in each pass is no parameter.
    computes = isinstance(layer, CONVOLUTIONS) and set(layer._parameters) != {"weight", "bias"}  # noqa: SLF001
    return bool(is_hooked or computes or layer.training)

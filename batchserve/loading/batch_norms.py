"""Batch norms that the convolutions before them can do as well: in evaluation, both are linear."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from batchserve.loading.program import Program

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CALLS = (functional.conv1d, functional.conv2d, functional.conv3d)
# What a call may tell of a tensor without its numbers.
DESCRIPTIONS = (int, torch.Size, torch.dtype, torch.device)


class Pair(NamedTuple):
    """A convolution, and the batch norm that alone gets what comes of it."""

    convolution: Any
    norm: Any


class PassSeen(TorchFunctionMode):
    """Sees what a module calls of torch, on this thread, in a pass made meanwhile.

    What code does that is not Python, as scripted functions, is not seen, nor what a pass of other
    inputs would do: whoever relies on it has to compare the answers.
    """

    def __init__(self) -> None:
        super().__init__()
        # Tensors by identity: how often each is part of a call, the weights of what convolutions
        # return, and the means of the norms that take that.
        self._uses: Counter[int] = Counter()
        self._weights: dict[int, int] = {}
        self._means: dict[int, int] = {}
        # Another tensor would get the identity of one that is gone.
        self._returned: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, DESCRIPTIONS):
            return result
        parts = tree_leaves((args, kwargs))
        self._uses.update(id(part) for part in parts if isinstance(part, torch.Tensor))
        if func in CALLS and len(args) > 1:
            self._weights[id(result)] = id(args[1])
            self._uses[id(result)] = 0
            self._returned.append(result)
        elif func is functional.batch_norm and id(args[0]) in self._weights and len(args) > 1:
            self._means[id(args[0])] = id(args[1])
        return result

    def pairs(self, module: nn.Module) -> list[Pair]:
        """Return the layers of a module, in evaluation mode, that were seen to be pairs."""
        layers = [part for part in module.modules() if not _is_hooked(part)]
        # A weight that is computed in each pass is no parameter.
        convolutions = {
            id(layer.weight): layer
            for layer in layers
            if isinstance(layer, CONVOLUTIONS) and "weight" in layer._parameters  # noqa: SLF001
        }
        # Not of their subclasses, which may do more.
        norms = {id(layer.running_mean): layer for layer in layers if type(layer) in NORMS}
        return [
            Pair(convolutions[weight], norms[mean])
            for output, weight in self._weights.items()
            if weight in convolutions
            and (mean := self._means.get(output)) in norms
            and self._were_used_once(output, mean, *map(id, convolutions[weight].parameters()))
        ]

    def _were_used_once(self, *tensors: int) -> bool:
        return all(self._uses[tensor] == 1 for tensor in tensors)


class FoldedNorms:
    """Batch norms of a module that its convolutions do, in place, until that is undone.

    The module's code stays what it is: in place of a norm, it calls an `Identity`.

    Args:
        module: in evaluation mode.
        pairs: of its layers.
    """

    def __init__(self, module: nn.Module, pairs: Iterable[Pair]) -> None:
        self._before = [
            (pair, pair.convolution.weight, pair.convolution.bias, _places(module, pair.norm))
            for pair in pairs
        ]
        for (convolution, norm), weight, bias, places in self._before:
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            _put(nn.Identity(), places)

    def undo(self) -> None:
        """Have the module as it was."""
        for (convolution, norm), weight, bias, places in self._before:
            convolution.weight, convolution.bias = weight, bias
            _put(norm, places)


def has_batch_norms(module: nn.Module) -> bool:
    """Whether a module has convolutions and batch norms, as layers that can be changed."""
    if isinstance(module, Program | torch.jit.ScriptModule):
        return False
    layers = list(module.modules())
    return all(any(isinstance(layer, kinds) for layer in layers) for kinds in (CONVOLUTIONS, NORMS))


def _is_hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)  # noqa: SLF001


def _places(module: nn.Module, layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return where a layer is in a module, as parents and names."""
    return [
        (parent, name)
        for parent in module.modules()
        for name, child in parent._modules.items()  # noqa: SLF001
        if child is layer
    ]


def _put(layer: nn.Module, places: Iterable[tuple[nn.Module, str]]) -> None:
    for parent, name in places:
        setattr(parent, name, layer)

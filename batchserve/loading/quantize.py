"""Linear layers in int8: smaller, and faster where the CPU has kernels for it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from batchserve.errors import LoadError
from batchserve.loading import torchscript
from batchserve.loading.int8_linear import Int8Linear


def quantize(module: nn.Module, method: str) -> nn.Module:
    """Put a module's Linear layers into int8, in place.

    Args:
        module: on its device and in its precision.
        method: `int8-dynamic`: weights and, row by row, what they are multiplied with.
            `int8-weight-only`: weights, which are turned back for each pass.

    Raises:
        LoadError: there is nothing to quantise, or what does it is not installed.
    """
    if not any(is_linear(layer) for layer in module.modules()):
        raise LoadError(
            f"quantize: {method} is for torch.nn.Linear layers, and {type(module).__name__} has "
            f"none; leave it out, or try precision: bf16"
        )
    if is_linear(module):
        module = nn.Sequential(module)
    if method == "int8-weight-only":
        return _by_torchao(module, "Int8WeightOnlyConfig")
    if next(module.parameters()).device.type != "cpu":
        return _by_torchao(module, "Int8DynamicActivationInt8WeightConfig")
    # torchao 0.18 has no fast kernel for this on x86: it took 20 times as long as fp32.
    _replace_linears(module, {})
    return module


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer can be quantised: a Linear, whose weights nobody else computes."""
    return type(layer) is nn.Linear and layer._parameters.get("weight") is not None  # noqa: SLF001 - what a parameter is, only it knows


def bytes_of(module: nn.Module) -> int:
    """Return how much memory a module's parameters and buffers take, also quantised and frozen."""
    found = [*module.parameters(), *module.buffers()]
    if isinstance(module, torch.jit.ScriptModule):
        found += torchscript.constants(module)
    tensors = {id(tensor): tensor for tensor in found}
    packed = sum(layer.nbytes for layer in module.modules() if isinstance(layer, Int8Linear))
    return packed + sum(part.nbytes for whole in tensors.values() for part in _parts(whole))


def _replace_linears(module: nn.Module, done: dict[nn.Module, Int8Linear]) -> None:
    # Not named_children(), which names a layer once that a module has twice.
    for name, child in list(module._modules.items()):  # noqa: SLF001
        if isinstance(child, nn.Linear) and is_linear(child):
            done[child] = done.get(child) or Int8Linear(child)
            setattr(module, name, done[child])
        elif child is not None:
            _replace_linears(child, done)
    if isinstance(module, nn.TransformerEncoderLayer):
        # Its fast path takes the weights past the layers; so it is told not to.
        module.activation_relu_or_gelu = 0


def _by_torchao(module: nn.Module, config: str) -> nn.Module:
    try:
        from torchao import quantization  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise LoadError(
            f"quantize needs torchao, which cannot be imported ({error}): "
            f"pip install 'batchserve[quantize]'"
        ) from error
    quantization.quantize_(
        module, getattr(quantization, config)(), filter_fn=lambda layer, _name: is_linear(layer)
    )
    return module


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the plain tensors in one of torchao's."""
    inner: Any = getattr(tensor, "__tensor_flatten__", None)
    if inner is None:
        yield tensor
        return
    for name in inner()[0]:
        yield from _parts(getattr(tensor, name))

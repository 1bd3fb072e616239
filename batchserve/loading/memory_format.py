"""In which order a module's images lie in memory: plane by plane, or pixel by pixel."""

import torch

from batchserve.loading.program import Program

FORMATS = {False: torch.contiguous_format, True: torch.channels_last}
# (rows, channels, height, width), what the format is defined for.
DIMS = 4


def has_convolutions(module: torch.nn.Module) -> bool:
    """Whether a module has weights of two-dimensional convolutions, whose order can be changed."""
    return not isinstance(module, Program) and any(
        parameter.ndim == DIMS for parameter in module.parameters()
    )


def lay_out(module: torch.nn.Module, *, channels_last: bool) -> None:
    """Bring a module's convolution weights, all that has four dimensions, into an order, in place.

    Convolutions keep the order of what they are given, so a whole network stays in it
    (https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html).
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == DIMS:
            tensor.data = tensor.data.contiguous(memory_format=FORMATS[channels_last])


def laid_out(tensor: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """Return a tensor in that order, if it has four dimensions."""
    if tensor.ndim != DIMS:
        return tensor
    return tensor.contiguous(memory_format=FORMATS[channels_last])

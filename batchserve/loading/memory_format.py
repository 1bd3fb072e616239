"""In which order a module's images lie in memory: whole planes, or all channels of a pixel."""

import torch

FORMATS = {False: torch.contiguous_format, True: torch.channels_last}


def lay_out(module: torch.nn.Module, *, channels_last: bool) -> None:
    """Bring a module's convolution weights, all that has four dimensions, into an order, in place.

    Convolutions keep the order of what they are given, so a whole network stays in it
    (https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html).
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:  # noqa: PLR2004 - what the format is defined for
            tensor.data = tensor.data.contiguous(memory_format=FORMATS[channels_last])


def laid_out(tensor: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """Return a tensor in that order, if it has four dimensions."""
    if tensor.ndim != 4:  # noqa: PLR2004 - as above
        return tensor
    return tensor.contiguous(memory_format=FORMATS[channels_last])

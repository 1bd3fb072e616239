"""An input's content as a number, by which it is known again."""

import torch


def fingerprint(tensor: torch.Tensor) -> int:
    """Return a hash of the shape, the dtype and the bytes; it means nothing to another process."""
    # A copy has the strides that a view of its bytes needs; those of one with a single element, or
    # with none, can be anything.
    flat = tensor.cpu().clone(memory_format=torch.contiguous_format).flatten()
    content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hash((tuple(tensor.shape), tensor.dtype, content))

"""An input's content as a number, by which it is known again."""

import torch


def fingerprint(tensor: torch.Tensor) -> int:
    """Return a hash of the shape, the dtype and the bytes; it means nothing to another process."""
    content = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hash((tuple(tensor.shape), tensor.dtype, content))

"""The forward pass on the loop's own thread, for models that cost less than a hand-over."""

from collections.abc import Sequence
from typing import Any

import torch

from batchserve.runners.forward import Forward


class InlineRunner:
    name = "inline"

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    async def forward(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        return self._forward(tensors)

    def close(self) -> None:
        """Nothing is held."""

"""The forward pass on the loop's own thread, for models that cost less than a hand-over."""

from collections.abc import Sequence
from typing import Any

import torch

from batchserve.runners.forward import Forward


class InlineRunner:
    name = "inline"
    streams = 1
    holds_up_the_loop = True
    queues = False

    def __init__(self, forward: Forward) -> None:
        self._forward: Forward | None = forward

    async def forward(
        self, tensors: Sequence[torch.Tensor], *, all_cores: bool = False
    ) -> list[Any]:
        if self._forward is None:
            raise RuntimeError("the runner is closed")
        return self._forward(tensors, all_cores=all_cores)

    def close(self) -> None:
        """Let go of the model, whoever still holds the runner."""
        self._forward = None

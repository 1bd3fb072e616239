"""Stands in for CUDA where passes are recorded."""

import math
from collections.abc import Callable
from typing import Any

from batchserve.runners.graphs import Replay
from batchserve.runners.nested import tensors_in


def record(function: Callable[[], Any]) -> tuple[Any, Replay]:
    """Keep a function, and have each replay write its output to the same memory.

    As with CUDA, nothing is there before the first replay.
    """
    output = function()
    for tensor in tensors_in(output):
        tensor.fill_(math.nan if tensor.is_floating_point() else -1)

    def replay() -> None:
        for kept, made in zip(tensors_in(output), tensors_in(function()), strict=True):
            kept.copy_(made)

    return output, replay

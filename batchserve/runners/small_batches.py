"""Code of their own for the smallest batches, where it is faster than what serves any number.

Code that is compiled for any number of rows may have to pack the weights of convolutions in each
pass, which a small batch does not make up for. To have it for one number takes time to compile,
and memory for the weights once more, so only a few sizes get theirs.
"""

import logging
from contextlib import closing
from dataclasses import dataclass

import torch

from batchserve.runners.at_once import AtOnce
from batchserve.runners.forward import Forward
from batchserve.runners.warmup import as_served

logger = logging.getLogger(__name__)

# One row has code of its own anyway.
FIRST, LAST = 2, 4
# What it must save to be worth it.
WORTH = 0.05


@dataclass(frozen=True)
class SmallBatches:
    """What came of it.

    Attributes:
        seconds: of a pass, by those sizes that have got code of their own.
        gains: how many times as fast they are with it, and the next one would be.
    """

    seconds: dict[int, float]
    gains: dict[int, float]

    def __str__(self) -> str:
        told = [
            f"{size} {gain:.2f} times as fast{'' if size in self.seconds else ', not used'}"
            for size, gain in self.gains.items()
        ]
        return "; ".join(told) or "not tried"


def compile_small_batches(forward: Forward, example: torch.Tensor, most: int) -> SmallBatches:
    """Compile the smallest batches for themselves, as long as that saves something.

    Args:
        forward: the pass, all of which is compiled otherwise. Where there are streams, as many
            passes are timed at the same time.
        example: one item, without the batch dimension.
        most: items of the largest batch.
    """
    seconds: dict[int, float] = {}
    gains: dict[int, float] = {}
    last = min(LAST, most) if forward.packs_in_each_pass else 0
    with closing(AtOnce(forward, forward.streams)) as at_once:
        for size in range(FIRST, last + 1):
            items = [example] * size
            with as_served(forward):
                together_s = at_once.shortest_s(items)
            forward.compile_apart(size)
            try:
                forward(items)
                with as_served(forward):
                    apart_s = at_once.shortest_s(items)
            except Exception as error:  # noqa: BLE001 - as compilers fail; without it, all works
                logger.info("a batch of %d is not compiled for itself: %s", size, error)
                forward.compile_together(size)
                break
            gains[size] = together_s / apart_s
            if apart_s > (1 - WORTH) * together_s:
                forward.compile_together(size)
                break
            seconds[size] = apart_s
    return SmallBatches(seconds, gains)

"""Batch norms done by the convolutions before them, where the answers stay the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from batchserve.loading import FoldedNorms, PassSeen, has_batch_norms
from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.forward import Forward
from batchserve.runners.layout import TOLERANCE
from batchserve.runners.reproducible import like
from batchserve.tasks.base import Task


@dataclass(frozen=True)
class Folding:
    """What came of trying.

    Attributes:
        norms: how many the convolutions can do.
        difference: the largest between two numbers of the answers, as a share of the largest one;
            None: the module failed then.
    """

    norms: int
    difference: float | None

    @property
    def used(self) -> bool:
        return self.difference is not None and self.difference <= TOLERANCE

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.norms} not folded into convolutions, the model fails then"
        return (
            f"{self.norms} {'' if self.used else 'not '}folded into convolutions, answers differ "
            f"by {self.difference:.0e} of the largest number"
        )


def fold_batch_norms(
    module: torch.nn.Module, task: Task, threads: int | None = None
) -> Folding | None:
    """Have a module's convolutions do what batch norms do after them, if answers stay the same.

    A norm of its own reads and writes again all that the convolution has written.

    Args:
        module: in evaluation mode, as it was loaded, on the CPU; changed in place.
        task: of the model.
        threads: cores for the trial; None: as many as torch is told to use on this thread.

    Returns:
        None: there is none to fold, or nothing to try it on.

    Raises:
        RuntimeError: from KeyboardInterrupt, as a pass takes an interruption.
    """
    example = task.example()
    if example is None or not has_batch_norms(module):
        return None
    forward = Forward(module, task, torch.device("cpu"), torch.float32, threads=threads)
    items = like(example, 1)
    with PassSeen() as seen:
        # What fails here fails in the warm-up, too, where it is explained.
        expected = _answers(forward, items)
    pairs = [] if expected is None else seen.pairs(module)
    if expected is None or not pairs:
        return None
    folded = FoldedNorms(module, pairs)
    folding = Folding(len(pairs), _difference(_answers(forward, items), expected))
    if not folding.used:
        folded.undo()
    return folding


def _answers(forward: Forward, items: Sequence[torch.Tensor]) -> list[Any] | None:
    """Return the rows; None: the pass failed."""
    try:
        return forward(items)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return None


def _difference(rows: list[Any] | None, expected: list[Any]) -> float | None:
    if rows is None:
        return None
    return largest_difference(rows, expected) / (largest_number(expected) or 1.0)

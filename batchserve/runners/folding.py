"""Batch norms done by the convolutions before them, where the answers stay the same."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from batchserve.loading import Pair, PassWatcher, fold, has_batch_norms
from batchserve.runners.forward import Forward
from batchserve.runners.layout import TOLERANCE
from batchserve.runners.nested import tensors_in
from batchserve.runners.reproducible import like
from batchserve.tasks.base import Task

# Items of the batch by which answers are compared: code may take a lone one another way.
COMPARED = 2


def fold_batch_norms(module: torch.nn.Module, task: Task, threads: int | None = None) -> str | None:
    """Have a module's convolutions do what batch norms do after them, if answers stay the same.

    A norm of its own reads and writes again all that the convolution has written. It is tried on a
    copy with the same weights, for a pass may leave something behind in a module.

    Args:
        module: in evaluation mode, as it was loaded, on the CPU; changed in place.
        task: of the model.
        threads: cores for the trial; None: as many as torch is told to use on this thread.

    Returns:
        What came of it; None: there is none to fold, or nothing to try it on. With inputs of other
        shapes, layers may be called otherwise, so all must have one.

    Raises:
        RuntimeError: from KeyboardInterrupt, as a pass takes an interruption.
    """
    example = task.example()
    if example is None or not task.fixed_shape or not has_batch_norms(module):
        return None
    try:
        pairs, difference = _tried(module, task, example, threads)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return f"not folded, as trying it failed: {type(error).__name__}: {error}"
    if not pairs:
        return None
    folds = difference <= TOLERANCE
    if folds:
        fold(module, pairs)
    return (
        f"{len(pairs)} {'' if folds else 'not '}folded into convolutions, answers differ by "
        f"{difference:.0e} of the largest number"
    )


def _tried(
    module: torch.nn.Module, task: Task, example: torch.Tensor, threads: int | None
) -> tuple[list[Pair], float]:
    """Return what can be folded, and by how much answers differ then."""
    tried = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
    forward = Forward(tried, task, torch.device("cpu"), torch.float32, threads=threads)
    items = like(example, COMPARED)
    with PassWatcher() as seen:
        forward(items[:1])
    pairs = seen.pairs(tried)
    if not pairs:
        return [], 0.0
    expected = forward(items)
    fold(tried, pairs)
    return pairs, _difference(forward(items), expected)


def _difference(rows: Sequence[Any], expected: Sequence[Any]) -> float:
    """Return the largest difference, as a share of the largest number of a tensor; or infinity.

    Numbers that are the same in both prove nothing, as those that a mask puts there: they do not
    count among the largest.
    """
    shares = [0.0]
    for row, other in zip(rows, expected, strict=True):
        if isinstance(row, Exception) or isinstance(other, Exception):
            return math.inf
        for ours, theirs in zip(tensors_in(row), tensors_in(other), strict=True):
            differ = ours != theirs
            if differ.any():
                was = theirs[differ].double()
                apart = (ours[differ].double() - was).abs().max()
                shares.append(float(apart / was.abs().max()))
    return max(shares) if all(map(math.isfinite, shares)) else math.inf

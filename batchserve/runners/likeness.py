"""How alike two models' rows for one input are."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from batchserve.runners.nested import tensors_in
from batchserve.trial_record import AGREE, DISAGREE, UNLIKE, UNRANKED


@dataclass(frozen=True, slots=True)
class Likeness:
    """What two rows have in common.

    Attributes:
        kind: whether the largest number is at the same place in both (`agree`, `disagree`), for
            rows of one dimension; `unranked` for others; `unlike` if they cannot be compared.
        difference: the largest between two numbers; None: they are `unlike`.
    """

    kind: str
    difference: float | None = None


def likeness(row: Any, other: Any) -> Likeness:
    """Compare two rows, tensors or nests of them; rows of different shapes are unlike.

    So are those of which only one has a number where the other has NaN.
    """
    ours, theirs = list(tensors_in(row)), list(tensors_in(other))
    if [part.shape for part in ours] != [part.shape for part in theirs]:
        return Likeness(UNLIKE)
    pairs = list(zip(ours, theirs, strict=True))
    difference = max((_difference(*pair) for pair in pairs), default=0.0)
    if not math.isfinite(difference):
        return Likeness(UNLIKE)
    if len(pairs) > 1 or not pairs or ours[0].dim() != 1 or len(ours[0]) < 2:  # noqa: PLR2004
        return Likeness(UNRANKED, difference)
    first, second = (int(part.double().argmax()) for part in pairs[0])
    return Likeness(AGREE if first == second else DISAGREE, difference)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if not one.numel():
        return 0.0
    one, other = one.double(), other.double()
    apart = (one - other).abs()
    same = (one == other) | (one.isnan() & other.isnan())
    return float(apart.masked_fill(same, 0).nan_to_num(nan=math.inf, posinf=math.inf).max())

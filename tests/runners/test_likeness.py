"""How alike two rows are."""

import math
from typing import Any

import pytest
import torch

from batchserve.runners.likeness import Likeness, likeness

NAN = math.nan


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


@pytest.mark.parametrize(
    ("row", "other", "kind", "difference"),
    [
        (t(1, 2, 3), t(1, 2, 3), "agree", 0.0),
        (t(1, 2, 3), t(1, 2.5, 3), "agree", 0.5),
        (t(1, 2, 3), t(4, 2, 3), "disagree", 3.0),
        (t(1), t(3), "unranked", 2.0),
        (torch.tensor(1.0), torch.tensor(3.0), "unranked", 2.0),
        (t(), t(), "unranked", 0.0),
        (torch.zeros(2, 2), torch.eye(2), "unranked", 1.0),
        ((t(1, 2), {"a": t(3)}), (t(1, 2), {"a": t(7)}), "unranked", 4.0),
        ((t(1, 2),), t(1, 2), "agree", 0.0),
        ("text", "another", "unranked", 0.0),
        (t(1, 2), t(1, 2, 3), "unlike", None),
        (t(1, 2), torch.ones(1, 2), "unlike", None),
        (t(1, 2), (t(1, 2), t(3)), "unlike", None),
        (t(NAN, 2), t(NAN, 2), "agree", 0.0),
        (t(NAN, 2), t(1, 2), "unlike", None),
        (t(math.inf, 2), t(math.inf, 3), "agree", 1.0),
        (t(math.inf, 2), t(-math.inf, 2), "unlike", None),
        (torch.tensor([True, False]), torch.tensor([False, True]), "disagree", 1.0),
        (torch.tensor([2**40, 1]), torch.tensor([2**40 + 1, 1]), "agree", 1.0),
        (torch.tensor([1, 2], dtype=torch.uint8), t(1, 2), "agree", 0.0),
    ],
)
def test_rows_are_compared_number_by_number(
    row: Any, other: Any, kind: str, difference: float | None
):
    assert likeness(row, other) == Likeness(kind, difference)
    assert likeness(other, row) == Likeness(kind, difference)

import math
from typing import Any

import pytest
import torch

from batchserve.errors import LoadError
from batchserve.runners.comparison import (
    compare_with_unquantized,
    largest_difference,
    largest_number,
)


def test_the_largest_difference_is_found_in_any_structure():
    rows = [{"a": torch.tensor([1.0, 2.0])}, [torch.tensor(3), torch.tensor([4.0])]]
    others = [{"a": torch.tensor([1.0, 2.5])}, [torch.tensor(1), torch.tensor([4.0])]]
    assert largest_difference(rows, others) == 2
    assert largest_difference(rows, rows) == 0
    assert largest_number(rows) == 4


@pytest.mark.parametrize("row", [{}, [], torch.zeros(0)])
def test_rows_of_nothing_do_not_differ(row):
    assert largest_difference([row], [row]) == 0


def test_an_answer_that_only_one_gives_differs_infinitely():
    failed: list[Any] = [ValueError("no luck")]
    assert largest_difference(failed, [torch.zeros(1)]) == math.inf
    assert largest_difference([torch.zeros(1)], failed) == math.inf
    assert largest_difference(failed, [ValueError("no luck")]) == 0


def test_quantising_is_told_in_bytes_seconds_and_difference(configure):
    (config,) = configure(
        source="tests.runners.test_comparison:random", quantize="int8-dynamic"
    ).models
    found = compare_with_unquantized(config)
    assert found.plain.bytes > 2 * found.changed.bytes
    assert found.plain.forward_s.keys() == found.changed.forward_s.keys() == {1, 8}
    assert found.difference is not None
    assert found.magnitude is not None
    # Both have the same weights, though each call makes others.
    assert 0 < found.difference < 0.05 < found.magnitude


def random() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))


def test_without_an_example_only_the_memory_is_told(configure):
    source = "tests.runners.test_comparison:without_example"
    (config,) = configure(source=source, quantize="int8-dynamic").models
    found = compare_with_unquantized(config)
    assert found.plain.bytes > found.changed.bytes
    assert (found.difference, found.magnitude, found.plain.forward_s) == (None, None, {})


def without_example() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.Linear(64, 8))


def test_what_cannot_be_quantised_is_refused_with_the_models_name(configure):
    (config,) = configure(source="tests.models:Double", quantize="int8-dynamic").models
    with pytest.raises(LoadError, match="model tiny: quantize: int8-dynamic is for"):
        compare_with_unquantized(config)

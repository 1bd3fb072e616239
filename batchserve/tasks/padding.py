"""Sequences of different lengths in one batch: to few lengths, with little that is padding."""

from collections.abc import Sequence

import torch

SHORTEST = 16


def padded_length(length: int, shortest: int = SHORTEST, longest: int | None = None) -> int:
    """Round a length up to one of few: 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96 and so on.

    From a power of two to the next there are four lengths, a quarter of the smaller apart: so few
    buckets, and compilations. Of a row that is longer than `shortest`, less than a fifth is
    padding: the result is below 5/4 of `length`.

    Args:
        length: of one item, in whatever its first dimension counts.
        shortest: nothing is rounded to less.
        longest: nothing is rounded to more, such as what the model has positions for.
    """
    # The largest power of two below the length; a quarter of it is the step.
    below = 1 << (max(length - 1, 1).bit_length() - 1)
    step = max(below // 4, 1)
    padded = max(-(-length // step) * step, shortest)
    return padded if longest is None else max(length, min(padded, longest))


def pad_stack(items: Sequence[torch.Tensor], length: int, value: float = 0) -> torch.Tensor:
    """Stack items of shapes (l, …), l ≤ `length`, to (n, `length`, …), with `value` behind each.

    Raises:
        ValueError: an item is longer.
    """
    first = items[0]
    batch = first.new_full((len(items), length, *first.shape[1:]), value)
    for row, item in zip(batch, items, strict=True):
        if len(item) > length:
            raise ValueError(f"an item of length {len(item)} does not fit in {length}")
        row[: len(item)] = item
    return batch


def attention_mask(items: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Return int64 of shape (n, `length`): 1 where `pad_stack` put an item, 0 where padding is."""
    lengths = torch.tensor([len(item) for item in items])
    return (torch.arange(length) < lengths[:, None]).long()

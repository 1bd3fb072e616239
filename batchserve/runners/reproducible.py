"""Whether an answer is the same to the bit in whatever company it is computed."""

from typing import Any

import torch

from batchserve.runners.forward import Forward
from batchserve.runners.nested import tensors_in

ROUNDS = 2


def is_reproducible(forward: Forward, example: torch.Tensor, size: int) -> bool:
    """Whether an item gets the same bits at every place of a batch, whatever is beside it.

    Each round tries one item: at all places at once, then at every second one beside others.

    Args:
        forward: with every batch padded to `size`.
        example: one item. Others of its kind are random if it is of floats or uint8; there is no
            telling which other integers would be valid.
        size: rows of every batch.
    """
    random = torch.Generator().manual_seed(0)
    return all(_has_one_answer(forward, example, size, random) for _ in range(ROUNDS))


def _has_one_answer(
    forward: Forward, example: torch.Tensor, size: int, random: torch.Generator
) -> bool:
    item = variation_of(example, random)
    answers = forward([item] * size)
    for parity in (0, 1):
        mixed = [item if i % 2 == parity else variation_of(example, random) for i in range(size)]
        answers += forward(mixed)[parity::2]
    return len({_bits(answer) for answer in answers}) == 1


def variation_of(example: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Return a random item like an example, or that where others may not be valid."""
    if example.is_floating_point():
        return torch.randn(example.shape, generator=random).to(example.dtype)
    if example.dtype == torch.uint8:
        return torch.randint(256, example.shape, generator=random, dtype=torch.uint8)
    return example


def like(example: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Return so many random items like an example, the same ones each time."""
    random = torch.Generator().manual_seed(0)
    return [variation_of(example, random) for _ in range(count)]


def _bits(row: Any) -> tuple[bytes, ...]:
    # Also tells 0 from -0, and finds NaN equal to itself.
    return tuple(tensor.numpy().tobytes() for tensor in tensors_in(row))

"""Small modules that configs in tests name."""

import torch
from torch import Tensor, nn


def tiny() -> nn.Module:
    """10 numbers to 10 numbers, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 10))


class Double(nn.Module):
    """Any tensor to twice itself: an answer shows whose input it belongs to."""

    def forward(self, batch: Tensor) -> Tensor:
        return 2 * batch


class FailsOnNegative(nn.Module):
    """Double, but fails if any number in the batch is negative."""

    def forward(self, batch: Tensor) -> Tensor:
        if (batch < 0).any():
            raise ValueError("negative numbers are beyond this model")
        return 2 * batch


class LosesRows(nn.Module):
    """Returns one row less than it was given, once there are two."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch if len(batch) == 1 else batch[1:]


class DoublesRows(nn.Module):
    """Returns each row twice."""

    def forward(self, batch: Tensor) -> Tensor:
        return torch.cat([batch, batch])


class MeanColour(nn.Module):
    """An image to three scores: its mean red, green and blue, as normalised."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch.mean(dim=(2, 3))


def not_a_module() -> int:
    return 7


def broken() -> nn.Module:
    raise RuntimeError("no such luck")


class Splits(nn.Module):
    """Any tensor to two: itself, and twice itself."""

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        return batch, 2 * batch

"""Small modules that the tests of loading name and save."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from batchserve.errors import LoadError


class Small(nn.Module):
    """Three numbers to two, with a layer that knows training from evaluation, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.9)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(self.fc(batch)))
        return out


class Wide(nn.Module):
    """More parameters than a message lists."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))


class Convolved(nn.Module):
    """An image of 3 × 8 × 8 to five scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.fc(self.norm(self.conv(batch)).relu().mean(dim=(2, 3)))
        return out


def convolved() -> Convolved:
    """Return one that is in evaluation, and has always the same weights and statistics."""
    torch.manual_seed(7)
    module = Convolved()
    module(torch.randn(16, 3, 8, 8))
    return module.eval()


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(batch).relu())
        return out


class Tiered(nn.Module):
    """Small with another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 2)
        self.norm = nn.BatchNorm1d(2)


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"import pathlib; pathlib.Path({str(self.path)!r}).mkdir()",)


SHARED = Small()
SEVEN = 7


def make() -> nn.Module:
    return Small()


def fails() -> nn.Module:
    raise RuntimeError("no such luck")


def refuses() -> nn.Module:
    raise LoadError("the licence is missing")


def needs_an_argument(classes: int) -> nn.Module:
    return nn.Linear(3, classes)


def has_a_part_named_module() -> nn.Module:
    made = nn.Sequential()
    made.module = nn.Linear(3, 3)
    made.head = nn.Linear(3, 2)
    return made


def normalised() -> nn.Module:
    torch.manual_seed(0)
    layer: nn.Module = weight_norm(nn.Linear(3, 2))
    return layer


def gives_seven() -> int:
    return 7


def assert_same(loaded: nn.Module, original: nn.Module) -> None:
    batch = torch.randn(4, 3)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), original(batch), rtol=0, atol=0)


# Deprecated upstream, yet what many have on disk.
torchscript = pytest.mark.filterwarnings("ignore:.torch.jit")

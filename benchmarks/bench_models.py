"""Models for benchmarks: they take CPU time, and little else."""

import os
import time

import torch
from torch import Tensor, nn

WIDTH = 768
INPUTS = 16


class Rounds(nn.Module):
    """16 numbers to 16 numbers, through the same layer over and over.

    As with the layers of a real model, the weights are read once for all items of a batch, so that
    a batch of 8 takes far less than 8 times as long as a batch of one: on one core, some 30 ms.
    """

    def __init__(self, rounds: int = 80) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Linear(INPUTS, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.leave = nn.Linear(WIDTH, INPUTS)
        self.rounds = rounds

    def forward(self, batch: Tensor) -> Tensor:
        hidden = self.enter(batch)
        for _ in range(self.rounds):
            hidden = torch.relu(self.layer(hidden))
        output: Tensor = self.leave(hidden)
        return output


class Witness(nn.Module):
    """Tells whose input it was given, and which process computed it.

    [number, marker] becomes [2 × number, pid]; a marker can ask for an exception, or for NaN. Takes
    time and no CPU, as a device does.
    """

    FIXED_S, PER_ITEM_S = 0.03, 0.005
    PLAIN, POISON, NAN = 0.0, 1.0, 2.0

    def forward(self, batch: Tensor) -> Tensor:
        time.sleep(self.FIXED_S + self.PER_ITEM_S * len(batch))
        numbers, markers = batch[:, 0], batch[:, 1]
        if (markers == self.POISON).any():
            raise ValueError("this input is poison")
        doubled = torch.where(markers == self.NAN, torch.nan, 2 * numbers)
        # Both are whole numbers that fp32 holds exactly.
        return torch.stack([doubled, torch.full_like(doubled, os.getpid())], dim=1)


class Sleeper(nn.Module):
    """Takes time and no CPU, as a device does, and the same for any number of items."""

    PASS_S = 0.02

    def forward(self, batch: Tensor) -> Tensor:
        time.sleep(self.PASS_S)
        return batch

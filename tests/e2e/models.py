"""Modules that show from outside how they are run."""

import time

import torch
from torch import Tensor, nn


class ThreadCount(nn.Module):
    """Answers with the number of threads that it may use."""

    def forward(self, batch: Tensor) -> Tensor:
        return torch.full_like(batch, torch.get_num_threads())


class OneSecond(nn.Module):
    """Takes a second for a batch, and answers with what it was given."""

    def forward(self, batch: Tensor) -> Tensor:
        time.sleep(1)
        return batch


def slow_to_load() -> nn.Module:
    """Takes longer to load than any test waits."""
    time.sleep(1000)
    return OneSecond()

"""Modules that show from outside how they are run."""

import threading
import time

import torch
from torch import Tensor, nn

from batchserve.runners.base import DeviceLost
from tests.models import Double


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


def double_after_two_seconds() -> nn.Module:
    time.sleep(2)
    return Double()


class Losable(nn.Module):
    """Double; but at -1 its device is lost, and at -2 the pass hangs for ever."""

    def forward(self, batch: Tensor) -> Tensor:
        if (batch == -1).any():
            raise DeviceLost("the test says so")
        if (batch == -2).any():
            threading.Event().wait()
        return 2 * batch

"""Modules that show from outside how they are run, and a task for text."""

import threading
import time
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from batchserve.errors import InvalidInput
from batchserve.runners.base import DeviceLost
from batchserve.tasks.base import Task
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


class Letters(Task):
    """A text in, how often each of its letters comes out."""

    Input: ClassVar[Any] = str
    Output: ClassVar[Any] = dict[str, float]

    def decode(self, payload: str) -> Tensor:
        codes = [ord(letter) - ord("a") for letter in payload.lower() if "a" <= letter <= "z"]
        if not codes:
            raise InvalidInput(f"{payload!r} has none of the letters a to z")
        return one_hot(torch.tensor(codes), 26).sum(0).float()

    def encode(self, row: Tensor, parameters: object) -> dict[str, float]:
        return {chr(ord("a") + i): count for i, count in enumerate(row.tolist()) if count}

    def example(self) -> Tensor:
        return self.decode("example")

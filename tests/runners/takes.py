"""A model whose pass takes as long as a test says."""

import time

import torch
from torch import Tensor, nn


class Takes(nn.Module):
    """Takes as long as the test says, by the number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__()
        self.seconds = seconds
        self.seen: set[int] = set()

    def forward(self, batch: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        self.seen.add(threads)
        # On a core: what a thread waits for one is not counted.
        until_s = time.thread_time() + self.seconds[threads]
        while time.thread_time() < until_s:
            pass
        return batch

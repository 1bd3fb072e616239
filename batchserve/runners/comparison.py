"""What a model costs and answers when it is changed, beside the same model unchanged."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchserve.config import ModelConfig
from batchserve.loading import DTYPES, load_module, pick_device, place_module
from batchserve.loading.quantize import bytes_of
from batchserve.runners.at_once import AtOnce
from batchserve.runners.forward import Forward
from batchserve.runners.nested import tensors_in
from batchserve.runners.reproducible import variation_of
from batchserve.tasks import build_task
from batchserve.tasks.base import Task

ITEMS = 8
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """What one of both takes.

    Attributes:
        bytes: of its parameters and buffers.
        forward_s: seconds of a forward pass by batch size.
    """

    bytes: int
    forward_s: dict[int, float]


@dataclass(frozen=True)
class Comparison:
    """Both beside each other.

    Attributes:
        plain: the unchanged one.
        changed: the other.
        difference: the largest between two numbers of their answers; None: there is no example to
            ask them about.
        magnitude: the largest number in the plain one's answers.
    """

    plain: Cost
    changed: Cost
    difference: float | None
    magnitude: float | None


def compare_with_unquantized(config: ModelConfig, threads: int | None = None) -> Comparison:
    """Load a model, quantise a copy of it, and ask both about the example and others like it.

    Args:
        config: of the quantised one.
        threads: cores that a pass may use; None: as many as torch is told to.

    Raises:
        LoadError: it cannot be loaded, or not be quantised.
    """
    module = load_module(config)
    task = build_task(config, module)
    unquantized = config.model_copy(update={"quantize": None})
    plain, plain_bytes = _forward(copy.deepcopy(module), task, unquantized, threads)
    changed, changed_bytes = _forward(module, task, config, threads)
    items = _items(task)
    if not items:
        return Comparison(Cost(plain_bytes, {}), Cost(changed_bytes, {}), None, None)
    expected = plain(items)
    plain_s, changed_s = _seconds([plain, changed], items)
    return Comparison(
        Cost(plain_bytes, plain_s),
        Cost(changed_bytes, changed_s),
        largest_difference(changed(items), expected),
        largest_number(expected),
    )


def largest_difference(rows: Sequence[Any], others: Sequence[Any]) -> float:
    """Return the largest difference between two numbers of rows; infinity if only one failed."""
    return max(_difference(row, other) for row, other in zip(rows, others, strict=True))


def largest_number(rows: Sequence[Any]) -> float:
    """Return the largest absolute number in rows, passing over those that failed."""
    return max(_largest(_numbers(row)) for row in rows)


def _difference(row: Any, other: Any) -> float:
    if isinstance(row, Exception) or isinstance(other, Exception):
        return 0.0 if isinstance(row, type(other)) else math.inf
    return _largest(_numbers(row) - _numbers(other))


def _numbers(row: Any) -> torch.Tensor:
    return torch.cat([torch.empty(0), *[part.double().flatten() for part in tensors_in(row)]])


def _largest(numbers: torch.Tensor) -> float:
    return numbers.abs().max().item() if len(numbers) else 0.0


def _forward(
    module: nn.Module, task: Task, config: ModelConfig, threads: int | None
) -> tuple[Forward, int]:
    """Return a placed module's forward pass, and the bytes that it takes."""
    device = pick_device(config.device)
    module = place_module(module, config, device)
    forward = Forward(
        module, task, device, DTYPES[config.precision], threads=threads,
        channels_last=bool(config.channels_last),
    )  # fmt: skip
    forward.compile_what_comes()
    return forward, bytes_of(module)


def _items(task: Task) -> list[torch.Tensor]:
    if (example := task.example()) is None:
        return []
    random = torch.Generator().manual_seed(0)
    return [example, *(variation_of(example, random) for _ in range(ITEMS - 1))]


def _seconds(forwards: list[Forward], items: list[torch.Tensor]) -> list[dict[int, float]]:
    """Return what a pass of each takes, by batch size: in turns, as the machine's pace varies."""
    found: list[dict[int, float]] = [{} for _ in forwards]
    for size in [1, len(items)] * ROUNDS:
        for forward, seconds in zip(forwards, found, strict=True):
            took_s = AtOnce(forward, 1).shortest_s(items[:size])
            seconds[size] = min(took_s, seconds.get(size, took_s))
    return found

"""How a check says what is wrong with a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch

from batchserve.tasks.base import Task

T = TypeVar("T")
SHOWN = 80


@dataclass(frozen=True, slots=True)
class Sample:
    """An item, with its name in messages and a copy as it was at first."""

    name: str
    item: torch.Tensor
    copy: torch.Tensor


class Check:
    """Checks one task; every fault is an AssertionError that names the method at fault."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def fail(self, method: str, what: str, cause: Exception | None = None) -> NoReturn:
        raise AssertionError(f"{type(self.task).__name__}: {method} {what}") from cause

    def attempt(self, method: str, where: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function of the task's; whatever it raises is a fault."""
        try:
            return function(*args)
        except Exception as error:  # noqa: BLE001 - the task's own, of any kind
            self.fail(method, f"{where} raises {type(error).__name__}: {error}", error)

    def kept(self, samples: Sequence[Sample], method: str, advice: str) -> None:
        for sample in samples:
            if not torch.equal(sample.item.nan_to_num(), sample.copy.nan_to_num()):
                self.fail(method, f"has changed the item of {sample.name}; {advice}")


def names(samples: Sequence[Sample]) -> str:
    return ", ".join(dict.fromkeys(sample.name for sample in samples))


def batch_hint(samples: Sequence[Sample]) -> str:
    """Return a remark for whoever left the batch dimension on."""
    if all(sample.item.ndim > 1 and len(sample.item) == 1 for sample in samples):
        return " (if the 1 that the items' shapes begin with is a batch's, decode must not add it)"
    return ""


def shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)} on {value.device}"
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"

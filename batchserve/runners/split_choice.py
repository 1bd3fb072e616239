"""Whether batches are computed in parts at the same time: if the model can, and it is no slower."""

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from batchserve.runners.base import OutOfMemory
from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.forward import Forward
from batchserve.runners.layout import ROUNDINGS, TOLERANCE
from batchserve.runners.split import Split, pays

TRIALS, TRIALS_S = 5, 2.0
# Parts may be so much slower while nothing else happens: while other things do, they are faster.
LEAST = 0.95
# Packages of modules that can be called from several threads at once.
KNOWN = ("torch", "torchvision", "batchserve")
SCALARS = (int, float, complex, str, bytes, bool, type(None))


class NotSplit(Exception):
    """Batches stay whole; the message says why."""


def may_split(forward: Forward, items: Sequence[torch.Tensor]) -> bool:
    """Whether there is something to choose: several cores share a pass of enough items."""
    # Answers that are to stay the same to the bit must not hang on how busy the machine was; and
    # what a model computes once for each shape, two threads might compute at once.
    is_usual = forward.on_cpu and forward.pad_to is None and forward.fixed_shape
    return is_usual and len(items) > 1 and pays(len(items), forward.threads)


def is_known(module: torch.nn.Module) -> bool:
    """Whether it is made of modules that keep nothing of a pass, for whoever wrote them says so.

    In eager mode that is torch's and torchvision's own; TorchScript tells by its code.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "prim::SetAttr" not in str(module.inlined_graph)
    return all(type(part).__module__.split(".")[0] in KNOWN for part in module.modules())


def choose_split(forward: Forward, items: Sequence[torch.Tensor]) -> float:
    """Have batches computed in parts, one for each thread of the pass, unless that is slower.

    Args:
        forward: the pass, not compiled, which `may_split`; changed if parts are no slower.
        items: of one batch, no two of them alike.

    Returns:
        How many times as fast it is while the machine does nothing else.

    Raises:
        NotSplit: why not.
        OutOfMemory: the memory does not suffice to try.
        RuntimeError: from KeyboardInterrupt, as the pass takes an interruption.
    """
    try:
        _check_can_be_split(forward, items)
        gain = _tried(forward, items)
    except (NotSplit, OutOfMemory):
        raise
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        # The items are made up, and may be nothing that the model takes.
        raise NotSplit(f"the trial failed: {type(error).__name__}: {error}") from error
    return gain


def _tried(forward: Forward, items: Sequence[torch.Tensor]) -> float:
    split = Split(forward.threads)
    expected = forward(items)
    forward.split = split
    try:
        difference = largest_difference(forward(items), expected)
        difference /= largest_number(expected) or 1.0
        if not difference <= max(TOLERANCE, ROUNDINGS * forward.rounding):
            raise NotSplit(f"answers differ by {difference:.0e} of the largest number")
        gain = _gain(forward, items, split)
        if gain < LEAST:
            raise NotSplit(f"{gain:.2f} times as fast")
    except BaseException:
        forward.split = None
        raise
    forward.split = split
    return gain


def _check_can_be_split(forward: Forward, items: Sequence[torch.Tensor]) -> None:
    forward(items)  # as often as it takes to have what is computed once
    # Two numbers of rows, or something else might just have as many as there are rows.
    if not all(forward.can_be_split(items[:count]) for count in (len(items), len(items) - 1)):
        raise NotSplit("the model takes or returns something else than a row for each item")
    if any(part._forward_hooks or part._forward_pre_hooks for part in forward.module.modules()):  # noqa: SLF001
        raise NotSplit("the model has hooks, and nobody knows what they keep")
    before = _kept_by(forward.module)
    forward(items)
    after = _kept_by(forward.module)
    changed = [name for name in before | after if not _is_same(before.get(name), after.get(name))]
    if changed:
        raise NotSplit(f"the model keeps something of a pass ({changed[0]})")


def _kept_by(module: torch.nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return all that a module holds, each with a number that tells whether it was changed."""
    return {
        f"{path}.{name}" if path else name: (value, _count_of(value))
        for path, part in module.named_modules()
        for name, value in [*vars(part).items(), *part.named_buffers(recurse=False)]
    }


def _count_of(value: Any) -> int | None:
    if isinstance(value, torch.Tensor):
        return None if value.is_inference() else value._version  # noqa: SLF001
    return len(value) if isinstance(value, Mapping | Sequence | AbstractSet) else None


def _is_same(one: tuple[Any, Any] | None, other: tuple[Any, Any] | None) -> bool:
    if one is None or other is None or one[1] != other[1]:
        return False
    return one[0] is other[0] or (isinstance(one[0], SCALARS) and one[0] == other[0])


def _gain(forward: Forward, items: Sequence[torch.Tensor], split: Split) -> float:
    seconds: dict[Split | None, list[float]] = {None: [], split: []}
    until_s = time.perf_counter() + TRIALS_S
    while len(seconds[split]) < TRIALS and (not seconds[split] or time.perf_counter() < until_s):
        for way, took in seconds.items():
            forward.split = way
            started_s = time.perf_counter()
            forward(items)
            took.append(time.perf_counter() - started_s)
    return min(seconds[None]) / min(seconds[split])

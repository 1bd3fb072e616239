"""Whether passes may run at the same time: what model or task keep of one would mix up others."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from batchserve.runners.at_once import AtOnce
from batchserve.runners.base import OutOfMemory
from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.forward import Forward
from batchserve.runners.layout import ROUNDINGS, TOLERANCE
from batchserve.tasks.base import Task

# Packages of what can be called from several threads at once.
KNOWN = ("torch", "torchvision", "batchserve")
# Of a task, what sees a batch.
OF_BATCHES = ("collate", "preprocess", "postprocess")
SCALARS = (int, float, complex, str, bytes, bool, type(None))
# How often passes are run at the same time, to look at their answers.
TIMES = 2


class NotSafe(Exception):
    """One pass at a time; the message says why."""


def may_run_at_once(forward: Forward) -> bool:
    """Whether there is something to choose: a pass that could use several cores."""
    # Answers that are to stay the same to the bit must not hang on how busy the machine was; and
    # what a model computes once for each shape, two threads might compute at once.
    return forward.on_cpu and forward.threads > 1 and forward.pad_to is None and forward.fixed_shape


def are_known(module: torch.nn.Module, task: Task) -> bool:
    """Whether both keep nothing of a pass, for whoever wrote them says so.

    Of modules in eager mode, those are torch's and torchvision's own; TorchScript tells by its
    code. Of tasks, those whose batches pass through batchserve's own methods.
    """
    methods = [getattr(type(task), name) for name in OF_BATCHES]
    return all(map(_is_of_known_package, methods)) and _is_known(module)


def _is_known(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return "prim::SetAttr" not in str(module.inlined_graph)
    return all(_is_of_known_package(type(part)) for part in module.modules())


def _is_of_known_package(thing: Any) -> bool:
    return thing.__module__.split(".")[0] in KNOWN


def check_thread_safety(forward: Forward, items: Sequence[torch.Tensor]) -> None:
    """Raise if the model is seen not to stand several passes at the same time.

    Args:
        forward: the pass, which `may_run_at_once`.
        items: at least two, no two of them alike.

    Raises:
        NotSafe: why not.
        OutOfMemory: the memory does not suffice to try.
        RuntimeError: from KeyboardInterrupt, as the pass takes an interruption.
    """
    # Of different sizes, and nothing is in both: what is kept of a batch differs.
    first = max(1, len(items) // 3)
    batches = [items[:first], items[first:]]
    try:
        _check_keeps_nothing(forward, batches)
        _check_answers(forward, batches)
    except (NotSafe, OutOfMemory):
        raise
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        # The items are made up, and may be nothing that the model takes.
        raise NotSafe(f"the trial failed: {type(error).__name__}: {error}") from error


def _check_keeps_nothing(forward: Forward, batches: Sequence[Sequence[torch.Tensor]]) -> None:
    for batch in (*batches, *batches):  # as often as it takes to have what is computed once
        forward(batch)
    if any(part._forward_hooks or part._forward_pre_hooks for part in forward.module.modules()):  # noqa: SLF001
        raise NotSafe("the model has hooks, and nobody knows what they keep")
    before = _kept_by(forward.module, forward.task)
    forward(batches[0])
    after = _kept_by(forward.module, forward.task)
    changed = [name for name in before | after if not _is_same(before.get(name), after.get(name))]
    if changed:
        raise NotSafe(f"something of a pass is kept ({changed[0]})")


def _check_answers(forward: Forward, batches: Sequence[Sequence[torch.Tensor]]) -> None:
    expected = [forward(batch) for batch in batches]
    scale = max(map(largest_number, expected)) or 1.0
    at_once = AtOnce(forward, len(batches))
    try:
        for _ in range(TIMES):
            for rows, wanted in zip(at_once.each(batches), expected, strict=True):
                difference = largest_difference(rows, wanted) / scale
                if not difference <= max(TOLERANCE, ROUNDINGS * forward.rounding):
                    raise NotSafe(f"answers differ by {difference:.0e} of the largest number")
    finally:
        at_once.close()


def _kept_by(module: torch.nn.Module, task: Task) -> dict[str, tuple[Any, Any]]:
    """Return all that both hold, each with a number that tells whether it was changed."""
    kept = [(f"task.{name}", value) for name, value in vars(task).items()]
    for path, part in module.named_modules():
        held = [*vars(part).items(), *part.named_buffers(recurse=False)]
        kept += [(f"{path}.{name}" if path else name, value) for name, value in held]
    return {name: (value, _count_of(value)) for name, value in kept}


def _count_of(value: Any) -> int | None:
    if isinstance(value, torch.Tensor):
        return None if value.is_inference() else value._version  # noqa: SLF001
    return len(value) if isinstance(value, Mapping | Sequence | AbstractSet) else None


def _is_same(one: tuple[Any, Any] | None, other: tuple[Any, Any] | None) -> bool:
    if one is None or other is None or one[1] != other[1]:
        return False
    return one[0] is other[0] or (isinstance(one[0], SCALARS) and one[0] == other[0])

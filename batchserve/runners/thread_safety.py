"""Whether passes of a model may run at the same time: what it keeps of one would mix up others."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from batchserve.runners.at_once import AtOnce
from batchserve.runners.base import OutOfMemory
from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.forward import Forward
from batchserve.runners.layout import ROUNDINGS, TOLERANCE

# Packages of modules that can be called from several threads at once.
KNOWN = ("torch", "torchvision", "batchserve")
SCALARS = (int, float, complex, str, bytes, bool, type(None))
# Passes at the same time of which the answers are looked at, and how often.
TOGETHER, TIMES = 2, 2


class NotSafe(Exception):
    """One pass at a time; the message says why."""


def may_run_at_once(forward: Forward) -> bool:
    """Whether there is something to choose: a pass that could use several cores."""
    # Answers that are to stay the same to the bit must not hang on how busy the machine was; and
    # what a model computes once for each shape, two threads might compute at once.
    return forward.on_cpu and forward.threads > 1 and forward.pad_to is None and forward.fixed_shape


def is_known(module: torch.nn.Module) -> bool:
    """Whether it is made of modules that keep nothing of a pass, for whoever wrote them says so.

    In eager mode that is torch's and torchvision's own; TorchScript tells by its code.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "prim::SetAttr" not in str(module.inlined_graph)
    return all(type(part).__module__.split(".")[0] in KNOWN for part in module.modules())


def check_thread_safety(forward: Forward, items: Sequence[torch.Tensor]) -> None:
    """Raise if the model is seen not to stand several passes at the same time.

    Args:
        forward: the pass, which `may_run_at_once`.
        items: of one batch, no two of them alike.

    Raises:
        NotSafe: why not.
        OutOfMemory: the memory does not suffice to try.
        RuntimeError: from KeyboardInterrupt, as the pass takes an interruption.
    """
    try:
        _check_keeps_nothing(forward, items)
        _check_answers(forward, items)
    except (NotSafe, OutOfMemory):
        raise
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        # The items are made up, and may be nothing that the model takes.
        raise NotSafe(f"the trial failed: {type(error).__name__}: {error}") from error


def _check_keeps_nothing(forward: Forward, items: Sequence[torch.Tensor]) -> None:
    forward(items)
    forward(items)  # as often as it takes to have what is computed once
    if any(part._forward_hooks or part._forward_pre_hooks for part in forward.module.modules()):  # noqa: SLF001
        raise NotSafe("the model has hooks, and nobody knows what they keep")
    before = _kept_by(forward.module)
    forward(items)
    after = _kept_by(forward.module)
    changed = [name for name in before | after if not _is_same(before.get(name), after.get(name))]
    if changed:
        raise NotSafe(f"the model keeps something of a pass ({changed[0]})")


def _check_answers(forward: Forward, items: Sequence[torch.Tensor]) -> None:
    batches = [[*items[place:], *items[:place]] for place in range(min(len(items), TOGETHER))]
    expected = [forward(batch) for batch in batches]
    scale = largest_number(expected[0]) or 1.0
    at_once = AtOnce(forward, len(batches))
    try:
        for _ in range(TIMES):
            for rows, wanted in zip(at_once.each(batches), expected, strict=True):
                difference = largest_difference(rows, wanted) / scale
                if not difference <= max(TOLERANCE, ROUNDINGS * forward.rounding):
                    raise NotSafe(f"answers differ by {difference:.0e} of the largest number")
    finally:
        at_once.close()


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

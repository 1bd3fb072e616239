"""Whether a pass can be recorded: does it need the host while it runs?

A recording holds what happens on the device. A pass that waits for a number from there, or computes
something on the host, cannot be recorded; trying would fail, and in torch 2.11 such a failure
leaves its allocator unusable (https://github.com/pytorch/pytorch/pull/180395). So one pass is
watched first, operator by operator.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from batchserve.runners.graphs import NotRecordable
from batchserve.runners.nested import mapped, tensors_in

# Their result, or its size, is a number that the host has to know.
NEEDS_HOST = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
# They copy between devices what else would only be looked at: a single number on the host. (Some
# operators return one that means nothing, as attention does in place of a seed.)
COPIES = ("aten::_to_copy", "aten::copy_")
# What `torch.tensor` makes of numbers on the host, which have to be copied.
FROM_NUMBERS = "aten::lift_fresh"
# Of these a mask has as many results as it has true elements; other indices do not.
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index")


def check_recordable(module: Callable[[Any], Any], inputs: Any) -> None:
    """Run a module once, and raise at the first operator that a recording cannot hold.

    Args:
        module: takes inputs as one.
        inputs: on the device.

    Raises:
        NotRecordable: naming the operator.
        Exception: whatever the module raises.
    """
    devices = {tensor.device for tensor in tensors_in(inputs)}
    if len(devices) != 1:
        raise NotRecordable("the module's inputs are not on one device")
    watch = _Watch(devices.pop())
    try:
        # In inference mode, operators that consist of others are not taken apart.
        with torch.inference_mode(mode=False), torch.no_grad(), watch:
            module(mapped(torch.clone, inputs))
    except Exception:
        # TorchScript's interpreter raises errors of its own.
        if watch.found is None:
            raise
    if watch.found is not None:
        raise watch.found


class _Watch(TorchDispatchMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.found: NotRecordable | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if _needs_host(name, func.tags, args):
            raise self._objection(f"the model waits for the device within a pass ({name})")
        result = func(*args, **(kwargs or {}))
        if self._is_elsewhere(name, [args, kwargs or {}, result]):
            raise self._objection(f"a part of the model is not on {self._device} ({name})")
        return result

    def _is_elsewhere(self, name: str, values: Any) -> bool:
        tensors = [*tensors_in(values)]
        if name == FROM_NUMBERS:
            return any(tensor.device == self._device for tensor in tensors)
        others = [tensor for tensor in tensors if tensor.device != self._device]
        return any(tensor.dim() for tensor in others) or (name in COPIES and bool(others))

    def _objection(self, reason: str) -> NotRecordable:
        self.found = NotRecordable(reason)
        return self.found


def _needs_host(name: str, tags: Any, args: Any) -> bool:
    if name in INDEXING:
        return any(index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1]))
    return any(tag in tags for tag in NEEDS_HOST)

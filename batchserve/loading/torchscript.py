"""TorchScript: scripted, traced and frozen modules."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from batchserve.errors import LoadError

# What oneDNN has for ones only: pooling to one number, and without gaps. With other numbers it is
# for some sizes of images, or for none.
ONES = {
    "aten::adaptive_avg_pool2d": "output_size",
    "aten::max_pool2d": "dilation",
    "aten::max_pool3d": "dilation",
}
CONSTANTS = ("prim::Constant", "prim::ConstantMKLDNNTensor")


def load(path: Path) -> torch.jit.ScriptModule:
    """Return the module in a file, on the CPU.

    Raises:
        LoadError: it is damaged, or of a newer torch.
    """
    try:
        return _read(os.fspath(path), torch.device("cpu"))
    except RuntimeError as error:
        raise LoadError(f"{path} cannot be loaded as TorchScript: {error}") from error


def read_again(module: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Return a copy of a module whose constants are on that device."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return _read(buffer, device)


def _read(file: str | io.BytesIO, device: torch.device) -> torch.jit.ScriptModule:
    with _undeprecated():
        return torch.jit.load(file, map_location=device)  # type: ignore[no-any-return, no-untyped-call]


def optimised(
    module: torch.jit.ScriptModule, device: torch.device, dtype: torch.dtype
) -> torch.jit.ScriptModule:
    """Make a module faster, with nothing left to compile: batches of all sizes are served so.

    Weights become constants, and layers are folded into each other. On a CPU, in fp32, weights are
    packed, too, those of convolutions for oneDNN. In half precision a perceptron was 20 times as
    slow for that, and on a GPU it would split each Linear layer into a product and a sum.

    Args:
        module: on the device, with its constants.
        device: where it runs.
        dtype: of its weights.

    Raises:
        LoadError: it cannot be frozen.
    """
    try:
        with _undeprecated():
            frozen: torch.jit.ScriptModule = torch.jit.freeze(module.eval())
            if device.type == "cpu" and dtype == torch.float32 and _can_be_packed(frozen):
                return _packed(frozen)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise LoadError(
            f"compile: true freezes TorchScript, and this module cannot be frozen: {reason}; "
            f"leave it out"
        ) from error
    return frozen


def _packed(frozen: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    packed: torch.jit.ScriptModule = torch.jit.optimize_for_inference(frozen)
    # Beside the packed weights, those that they were made of are still in the graph.
    torch._C._jit_pass_dce(packed.graph)  # noqa: SLF001
    return packed


def _can_be_packed(frozen: torch.jit.ScriptModule) -> bool:
    """Whether oneDNN has all that it would be given, for images of any size."""
    graph: Any = frozen.graph
    return all(
        set(node.namedInput(name).toIValue() or ()) == {1}
        for kind, name in ONES.items()
        for node in graph.findAllNodes(kind)
    )


@contextmanager
def _undeprecated() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch advises torch.export, which this file's user can do nothing about here.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=Warning)
        yield


def constants(module: torch.jit.ScriptModule) -> list[torch.Tensor]:
    """Return the tensors in a module's graph: what freezing has put there, packed ones too."""
    graph: Any = module.inlined_graph
    return [
        node.t("value")
        for kind in CONSTANTS
        for node in graph.findAllNodes(kind)
        if node.hasAttribute("value") and node.kindOf("value") == "t"
    ]


def constant_dtypes(module: torch.jit.ScriptModule) -> set[torch.dtype]:
    """Return of what precision the numbers are that freezing has put into the graph.

    No `.to()` reaches them. A module that was not frozen has parameters instead.
    """
    if next(module.parameters(), None) is not None:
        return set()
    # A single number takes part in any precision.
    return {value.dtype for value in constants(module) if value.is_floating_point() and value.ndim}

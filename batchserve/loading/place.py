"""Where a model runs, in which precision, and made faster how."""

from collections.abc import Sequence

import torch

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.loading import torchscript
from batchserve.loading.compiled import compiled, has_compiler
from batchserve.loading.memory_format import lay_out
from batchserve.loading.program import Program
from batchserve.loading.quantize import quantize

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the best that is there.

    Raises:
        LoadError: it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise LoadError(
            f"device: {name} is not there; torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; device: auto takes what there is"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LoadError("device: mps is not there; device: auto takes what there is")
    return device


def place_module(
    module: torch.nn.Module, config: ModelConfig, device: torch.device
) -> torch.nn.Module:
    """Move a loaded module to its device, in its precision; quantise and compile it if configured.

    Raises:
        LoadError: its kind does not allow that.
    """
    try:
        return _place(module, config, device)
    except LoadError as error:
        raise LoadError(f"model {config.name}: {error}") from error


def _place(module: torch.nn.Module, config: ModelConfig, device: torch.device) -> torch.nn.Module:
    if isinstance(module, Program):
        if config.channels_last:
            raise LoadError(
                "channels_last: true does not go with a program, whose order in memory is fixed "
                "when it is made; leave it out, or make it anew from such a module"
            )
        _check_fixed(
            "a program", {module.dtype} if module.dtype else set(), config, ("compile", "quantize")
        )
        module.place(device)
        return module
    if isinstance(module, torch.jit.ScriptModule):
        constants = torchscript.constant_dtypes(module)
        _check_fixed("TorchScript", constants, config, ("quantize",))
        # Only while it is read can what is in a graph be moved.
        module = torchscript.read_again(module, device) if constants else module
    module = module.to(device=device, dtype=DTYPES[config.precision])
    if config.quantize is not None:
        module = quantize(module, config.quantize)
    if config.channels_last:
        lay_out(module, channels_last=True)
    dtype = DTYPES[config.precision]
    if isinstance(module, torch.jit.ScriptModule):
        return torchscript.optimised(module, device, dtype) if config.compile else module
    if config.compile or (config.autotune and has_compiler()):
        return compiled(module, device, dtype)
    return module


def _check_fixed(
    kind: str, dtypes: set[torch.dtype], config: ModelConfig, excluded: Sequence[str]
) -> None:
    """Raise if a config asks for more than a graph allows that was fixed when it was made.

    Args:
        kind: of the model, for messages.
        dtypes: of the numbers in the graph; empty: it takes any precision.
        config: what is asked for.
        excluded: keys that such a graph does not go with.
    """
    if dtypes and dtypes != {DTYPES[config.precision]}:
        own = " and ".join(sorted(NAMES.get(dtype, str(dtype)) for dtype in dtypes))
        raise LoadError(
            f"precision: {config.precision} is not that of the file: the numbers of {kind} are "
            f"fixed when it is made, and these are {own}; set precision: {own}, or make it anew "
            f"in {config.precision}"
        )
    for key in excluded:
        if value := getattr(config, key):
            stated = "true" if value is True else value
            raise LoadError(
                f"{key}: {stated} does not go with {kind}, whose graph is fixed when it is made; "
                f"leave it out, or serve the model itself: its weights with architecture"
            )

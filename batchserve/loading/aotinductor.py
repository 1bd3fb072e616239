"""AOTInductor packages: programs compiled to machine code for one kind of device."""

import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from batchserve.errors import LoadError
from batchserve.loading.program import VARIES, Input, Program

# Without them, a batch of another shape or dtype reads memory that is not its own. Read once by
# the compiled code (https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html).
CHECK_INPUTS = "AOTI_RUNTIME_CHECK_INPUTS"
FOLDER = "data/aotinductor/"
# What the compiled code checks, in the C++ that the package carries.
DTYPE = re.compile(r"expected_dtype = aoti_torch_dtype_(\w+)\(\)")
SIZE = re.compile(
    r"input_handles\[(\d+)\]: (unmatched dim value|dim value is too small|dim value is too large) "
    r'at (\d+), "\s*<< "[^"\d]*(\d+)'
)
STRIDE = re.compile(r"input_handles\[(\d+)\]: unmatched stride value at (\d+)")


class AOTInductor(Program):
    """A package, whose code is loaded when it is placed."""

    def __init__(self, path: Path, model: str, device: str, inputs: list[Input]) -> None:
        floats = {taken.dtype for taken in inputs if taken.dtype.is_floating_point}
        super().__init__(inputs, floats.pop() if len(floats) == 1 else None)
        self._path = path
        self._model = model
        self._device = device

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Of memory in another order, the compiled code would refuse the strides.
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.contiguous, (args, kwargs))
        return self._compiled(*args, **kwargs)

    def place(self, device: torch.device) -> None:
        if device.type != self._device:
            raise LoadError(
                f"{self._path} was compiled for {self._device}, and the device is {device}; "
                f"compile it for {device.type} with torch._inductor.aoti_compile_and_package, or "
                f"set device: {self._device}"
            )
        # A second to import.
        from torch._inductor.package.package import load_package  # noqa: PLC0415

        os.environ.setdefault(CHECK_INPUTS, "1")
        index = -1 if device.index is None else device.index
        try:
            # It insists on this ending, whatever the file is called.
            with tempfile.TemporaryDirectory() as folder:
                link = Path(folder, "model.pt2")
                link.symlink_to(self._path.resolve())
                self._compiled = load_package(
                    os.fspath(link), model_name=self._model, device_index=index
                )
        except Exception as error:
            raise LoadError(
                f"{self._path} cannot be loaded as an AOTInductor package: "
                f"{type(error).__name__}: {error}; compile it anew on a machine like this one, "
                f"with torch {torch.__version__}"
            ) from error


def load(path: Path) -> AOTInductor:
    """Return what a package is, without running anything of it.

    Raises:
        LoadError: it holds several models.
    """
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if FOLDER in name]
        models = sorted({name.partition(FOLDER)[2].partition("/")[0] for name in members})
        if len(models) > 1:
            raise LoadError(
                f"{path} holds several models: {', '.join(models)}; package each by itself"
            )
        sources = [name for name in members if name.endswith(".cpp")]
        source = "".join(archive.read(name).decode(errors="replace") for name in sources)
        metadata = "".join(
            archive.read(name).decode(errors="replace")
            for name in members
            if name.endswith("_metadata.json")
        )
    device = re.search(r'"AOTI_DEVICE_KEY": "(\w+)"', metadata)
    return AOTInductor(path, models[0], device[1] if device else "cpu", inputs_in(source))


def inputs_in(source: str) -> list[Input]:
    """Return what compiled code takes, from the checks in its C++; empty if they are not there."""
    dtypes = [getattr(torch, name) for name in DTYPE.findall(source)]
    return [_input(number, dtype, source) for number, dtype in enumerate(dtypes)]


def _input(number: int, dtype: torch.dtype, source: str) -> Input:
    least: dict[int, int] = {}
    most: dict[int, int] = {}
    for which, kind, place, size in SIZE.findall(source):
        if int(which) == number:
            if not kind.endswith("too large"):
                least[int(place)] = int(size)
            if not kind.endswith("too small"):
                most[int(place)] = int(size)
    strides = [int(place) for which, place in STRIDE.findall(source) if int(which) == number]
    rank = 1 + max([0, *least, *most, *strides])
    shape = (
        most[place] if place in most and least.get(place) == most[place] else VARIES
        for place in range(1, rank)
    )
    return Input(dtype, least.get(0, 1), most.get(0), tuple(shape))

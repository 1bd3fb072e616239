"""Programs of torch.export: `torch.export.save(program, "model.pt2")`."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from batchserve.errors import LoadError
from batchserve.loading.program import VARIES, Input, Program

logger = logging.getLogger(__name__)

# Operations that behave otherwise in training, and which of their arguments says so.
TRAINING_ARGUMENT = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}


class Exported(Program):
    """A program, on the CPU until it is placed."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(inputs_of(program), _dtype_of(program))
        self._program = program
        self._module: torch.nn.Module = program.module()
        self._names = _names_of(program)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._names is None:
            return self._module(*args, **kwargs)
        # It insists on being called as it was when it was exported.
        positional, named = self._names
        names = [*positional, *named]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.keys() != set(names) or len(args) + len(kwargs) != len(names):
            got = ", ".join([f"{len(args)} by place", *kwargs])
            raise TypeError(f"it takes {', '.join(names)}, and was given {got}")
        return self._module(*(given[name] for name in positional), **{n: given[n] for n in named})

    def place(self, device: torch.device) -> None:
        if device.type != "cpu":
            self._program = move_to_device_pass(self._program, device)
            self._module = self._program.module()


def load(path: Path) -> Exported:
    """Return the program in a file.

    Raises:
        LoadError: it is damaged, or of a newer torch.
    """
    try:
        # As a file: a path would have to end in .pt2.
        with path.open("rb") as file:
            program = torch.export.load(file)
        if _in_training(program):
            logger.warning(
                "%s was exported in training mode: its answers are partly random, or depend on "
                "their neighbours; call model.eval() before torch.export.export",
                path,
            )
        return Exported(program)
    except Exception as error:
        raise LoadError(
            f"{path} cannot be loaded as a program of torch.export: {type(error).__name__}: "
            f"{error}; torch here is {torch.__version__}, and it must be no older than the one "
            f"that exported it"
        ) from error


def inputs_of(program: ExportedProgram) -> list[Input]:
    """Return what a program takes: each of its tensors that has a batch dimension."""
    names = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    values = [node.meta.get("val") for node in nodes if node.name in names]
    return [
        _input(value, program) for value in values if isinstance(value, torch.Tensor) and value.ndim
    ]


def _input(value: torch.Tensor, program: ExportedProgram) -> Input:
    batch, *sizes = value.shape
    least, most = _range(batch, program)
    shape = tuple(size if isinstance(size, int) else VARIES for size in sizes)
    return Input(value.dtype, least, most, shape)


def _range(size: int | torch.SymInt, program: ExportedProgram) -> tuple[int, int | None]:
    if isinstance(size, int):
        return size, size
    allowed = program.range_constraints.get(size.node.expr)
    if allowed is None:
        return 1, None
    upper = allowed.upper
    return max(1, int(allowed.lower)), int(upper) if upper.is_Integer else None


def _names_of(program: ExportedProgram) -> tuple[list[str], list[str]] | None:
    """Return which inputs have a place and which a name; None: some of them are no tensors."""
    if program.example_inputs is None:
        return None
    args, kwargs = program.example_inputs
    if not all(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values())):
        return None
    return list(program.graph_signature.user_inputs[: len(args)]), list(kwargs)


def _dtype_of(program: ExportedProgram) -> torch.dtype | None:
    dtypes = {value.dtype for value in program.state_dict.values() if value.dtype.is_floating_point}
    return dtypes.pop() if len(dtypes) == 1 else None


def _in_training(program: ExportedProgram) -> bool:
    return any(
        len(node.args) > place and node.args[place] is True
        for node in program.graph.nodes
        if (place := TRAINING_ARGUMENT.get(str(node.target))) is not None
    )

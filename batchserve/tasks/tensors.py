"""Named tensors, as the Open Inference Protocol has clients send and read them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

# As numpy holds them; BYTES as an array of bytes objects. BF16, which numpy lacks, becomes FP32.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
VARIES = -1
# The names of a model's only input and only output.
INPUT: Final = "input"
OUTPUT: Final = "output"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or an output of a model.

    Attributes:
        name: what requests and answers call it.
        datatype: the protocol's name for what it holds, a key of `DATATYPES`.
        shape: of one item, without the batch dimension; -1 where a size varies.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


# A file, a text or JSON for each item, in the shape that Triton's clients are used to.
ONE_OF_BYTES = TensorSpec(INPUT, "BYTES", (1,))


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of a dtype.

    Raises:
        TypeError: it has none.
    """
    try:
        return NAMES[dtype]
    except KeyError:
        raise TypeError(f"the Open Inference Protocol has no datatype for {dtype}") from None


def named_arrays(row: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Give names to the tensors of an output row.

    A tensor is `output`, those of a tuple or a list are `output_0`, `output_1` and so on, those of
    a mapping have its keys; what is nested in them adds its own with an underscore.

    Args:
        row: as `postprocess` left it, on the CPU, without the batch dimension.
    """
    return {name: tensor.numpy() for name, tensor in _named(row, "")}


def specs_of(row: Any, *, fixed: bool) -> tuple[TensorSpec, ...]:
    """Describe the outputs of a model by one output row; what has no datatype is left out.

    Args:
        row: as for `named_arrays`.
        fixed: whether every row has these shapes.
    """
    return tuple(
        TensorSpec(name, NAMES[array.dtype], array.shape if fixed else (VARIES,) * array.ndim)
        for name, array in named_arrays(row).items()
        if array.dtype in NAMES
    )


NUMBERS = frozenset({float, int, bool})


def holds_text(data: Any) -> bool:
    """Whether there is a string, or bytes, in nested lists.

    numpy would make an array of it, and give each element the room of the longest.
    """
    if not isinstance(data, list):
        return isinstance(data, str | bytes)
    if NUMBERS.issuperset(map(type, data)):
        return False
    # Not by recursion: a client may nest them deeper than Python goes.
    lists = [data]
    while lists:
        inner = lists.pop()
        kinds = set(map(type, inner))
        if kinds & {str, bytes}:
            return True
        if list in kinds:
            lists += [part for part in inner if isinstance(part, list)]
    return False


def are_items(payloads: Sequence[Any]) -> bool:
    """Whether these are what `Task.decode` returns rather than what it takes."""
    return all(isinstance(payload, torch.Tensor) for payload in payloads)


def _named(row: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(row, torch.Tensor):
        yield name or OUTPUT, row
    elif isinstance(row, Mapping):
        for key, part in row.items():
            yield from _named(part, f"{name}_{key}" if name else str(key))
    else:
        for index, part in enumerate(row):
            yield from _named(part, f"{name or OUTPUT}_{index}")

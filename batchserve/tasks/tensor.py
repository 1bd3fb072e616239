"""Numbers in, numbers out."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import BaseModel, Field

from batchserve.config import ModelConfig
from batchserve.errors import InvalidInput
from batchserve.tasks.base import Task
from batchserve.tasks.tensors import INPUT, VARIES, TensorSpec, datatype_of, holds_text

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
# Of float32.
SQUARE_OF_LARGEST = float(np.finfo(np.float32).max) ** 2


class TensorTask(Task):
    """A tensor as nested lists of numbers, or as a numpy array.

    Args:
        shape: of one item, -1 where a size varies; None: anything.
        dtype: of one item, a name that torch and numpy share.
    """

    Input: ClassVar[Any] = Annotated[Any, Field(description="Nested lists of numbers.")]
    Output: ClassVar[Any] = Annotated[Any, Field(description="Nested lists of numbers.")]
    # 32 KiB are some 3,000 numbers, parsed and copied within 100 µs.
    inline_bytes: ClassVar[int] = 32 * 1024
    arrays: ClassVar[bool] = True

    def __init__(self, shape: tuple[int, ...] | None = None, dtype: str = "float32") -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        # Somebody else's `decode` may be made for lists.
        is_ours = type(self).decode is TensorTask.decode
        self._flat_floats = is_ours and self.input_dims == 1 and self.dtype.kind == "f"

    @classmethod
    def from_config(cls, config: ModelConfig, module: torch.nn.Module) -> Self:
        if config.input_shape is not None or config.input_dtype != "float32":
            return cls(config.input_shape, config.input_dtype)
        told = input_of_program(module)
        return cls(*told) if told else cls(shape_of_first_linear(module))

    @property
    def input_dims(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def flat_floats(self) -> bool:
        return self._flat_floats

    @property
    def fixed_shape(self) -> bool:
        return self.shape is not None and VARIES not in self.shape

    def decode(self, payload: Any) -> torch.Tensor:
        """Return the numbers as a tensor of this task's dtype.

        Raises:
            InvalidInput: ragged, of another shape, not numbers, or not finite.
        """
        if holds_text(payload):
            raise self._no_number()
        try:
            array = np.asarray(payload)
        except ValueError:
            raise InvalidInput("the nested lists are ragged; every row needs one length") from None
        if self._is_plain(array):
            return torch.from_numpy(array.astype(FLOAT32))
        return torch.from_numpy(self._checked(array))

    def payloads(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> list[torch.Tensor]:
        """Return the rows of the one tensor, all converted at once.

        Raises:
            InvalidInput: of another shape, or of numbers that this task's dtype does not hold.
        """
        return list(torch.from_numpy(self._checked(tensors[INPUT], rows=True)))

    def input_specs(self) -> tuple[TensorSpec, ...]:
        shape = (VARIES,) if self.shape is None else self.shape
        return (TensorSpec(INPUT, datatype_of(self.dtype), shape),)

    def encode(self, row: Any, parameters: BaseModel) -> Any:
        return _lists(row)

    def example(self) -> torch.Tensor | None:
        if self.shape is None:
            return None
        sizes = [1 if size == VARIES else size for size in self.shape]
        return torch.from_numpy(np.zeros(sizes, self.dtype))

    def _is_plain(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether numbers are what most are: of the shape itself, finite, and soon seen to be."""
        if array.shape != self.shape or array.dtype != FLOAT64 or self.dtype != FLOAT32:
            return False
        # It is not less if one of them is greater than float32 can hold, or no number. Unlike
        # dot, vdot does not warn of what is too large for float64 as well.
        return bool(np.vdot(array, array) < SQUARE_OF_LARGEST)

    def _checked(self, array: np.ndarray[Any, Any], *, rows: bool = False) -> np.ndarray[Any, Any]:
        """Return a copy of an item, or of several as `rows`, in this task's dtype."""
        shape = array.shape[1:] if rows else array.shape
        if array.dtype.kind not in "biuf":
            raise self._no_number(rows=rows)
        if self.shape is not None and not _fits(shape, self.shape):
            wanted = self._wanted(rows=rows)
            raise InvalidInput(f"the input has shape {[*array.shape]}, not {wanted}")
        if array.dtype.kind == "f" and self.dtype.kind != "f" and array.size:
            raise self._refusal("something in it is a fraction", rows=rows)
        with np.errstate(over="ignore"):
            converted = array.astype(self.dtype)
        if self.dtype.kind == "f":
            if not np.isfinite(converted).all():
                raise self._refusal("something is not finite", rows=rows)
        elif not np.array_equal(converted, array):
            raise self._refusal("something is out of range", rows=rows)
        return converted

    def _no_number(self, *, rows: bool = False) -> InvalidInput:
        return self._refusal("something in it is not a number", rows=rows)

    def _refusal(self, what: str, *, rows: bool) -> InvalidInput:
        return InvalidInput(f"the input must be {self._wanted(rows=rows)}; {what}")

    def _wanted(self, *, rows: bool) -> str:
        kind = datatype_of(self.dtype) if rows else f"nested lists of {self.dtype}"
        if self.shape is None:
            return kind
        return f"{kind} of shape {[VARIES, *self.shape] if rows else [*self.shape]}"


def input_of_program(module: torch.nn.Module) -> tuple[tuple[int, ...], str] | None:
    """Return shape and dtype of one item, if the module is a program that tells of one input."""
    inputs: Any = getattr(module, "program_inputs", ())
    if len(inputs) != 1:
        return None
    dtype = inputs[0].dtype
    name = "float32" if dtype.is_floating_point else str(dtype).removeprefix("torch.")
    return inputs[0].item_shape, name


def shape_of_first_linear(module: torch.nn.Module) -> tuple[int, ...] | None:
    """Return the shape of one item if the module's first layer is a Linear, as a trial shows.

    A scripted layer tells its class as `original_name`.
    """
    layers = (layer for layer in module.modules() if [*layer.parameters(recurse=False)])
    first = next(layers, None)
    if getattr(first, "original_name", type(first).__name__) != "Linear":
        return None
    weight = next(module.parameters())
    shape = (weight.shape[1],)
    try:
        with torch.inference_mode():
            module(torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device))
    except Exception:  # noqa: BLE001 - any failure says that the guess is wrong
        return None
    return shape


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want in (VARIES, size) for size, want in zip(shape, wanted, strict=True)
    )


def _lists(row: Any) -> Any:
    if isinstance(row, torch.Tensor):
        return row.tolist()
    if isinstance(row, dict):
        return {name: _lists(part) for name, part in row.items()}
    return [_lists(part) for part in row]

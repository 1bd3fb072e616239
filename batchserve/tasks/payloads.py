"""What other protocols than our own send, as the payloads that a task decodes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from batchserve.errors import BadRequest, InvalidInput
from batchserve.mistakes import explained
from batchserve.tasks.tensors import INPUT, ONE_OF_BYTES, VARIES, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from batchserve.tasks.base import Task

# What JSON Schema calls the numbers that a tensor may hold.
NUMBERS = {"number": "FP32", "integer": "INT64", "boolean": "BOOL"}


def from_value(task: type[Task], value: Any) -> Any:
    """Return X of a task's type, from parsed JSON.

    Raises:
        BadRequest: it is of another type.
    """
    try:
        return _adapter(task).validate_python(value)
    except ValidationError as error:
        raise BadRequest(f"the input is of the wrong type: {explained(error)}") from None


def from_bytes(task: type[Task], data: bytes) -> Any:
    """Return a payload from bytes: themselves where a task takes files, otherwise text or JSON.

    Raises:
        BadRequest: they are neither the text nor the JSON that the task takes.
    """
    if task.media_types:
        return data
    adapter = _adapter(task)
    try:
        if _schema(task).get("type") == "string":
            return adapter.validate_python(data.decode())
        return adapter.validate_json(data)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the input is not text in UTF-8: {error}") from None
    except ValidationError as error:
        raise BadRequest(f"the input is not the JSON that it must be: {explained(error)}") from None


def from_rows(task: type[Task], tensor: np.ndarray[Any, Any]) -> list[Any]:
    """Return a payload for each row of a tensor.

    Args:
        task: whose payloads.
        tensor: of shape (n, …); BYTES of shape (n) or (n, 1).

    Raises:
        InvalidInput: BYTES of another shape.
        BadRequest: a row that is nothing the task takes.
    """
    if tensor.dtype != object:
        return [from_value(task, row) for row in tensor.tolist()]
    return [from_bytes(task, element) for element in elements_of(tensor)]


def elements_of(tensor: np.ndarray[Any, Any]) -> list[bytes]:
    """Return the elements of a BYTES tensor that holds one for each input.

    Raises:
        InvalidInput: it is of another shape than (n) and (n, 1).
    """
    if tensor.size != len(tensor):
        raise InvalidInput(
            f"BYTES of shape {[*tensor.shape]} are not one element for each input, as in "
            f"[{len(tensor)}] or [{len(tensor)}, 1]"
        )
    elements: list[bytes] = tensor.ravel().tolist()
    return elements


def spec_of(task: type[Task]) -> TensorSpec:
    """Return the one input tensor of a task that says no more than `Input`.

    Numbers, nested as deep as it says; everything else in BYTES, each a file, a text or JSON.
    """
    schema = _schema(task)
    shape: tuple[int, ...] = ()
    while schema.get("type") == "array":
        schema, shape = schema.get("items", {}), (*shape, VARIES)
    datatype = None if task.media_types else NUMBERS.get(schema.get("type", ""))
    return TensorSpec(INPUT, datatype, shape) if datatype else ONE_OF_BYTES


@cache
def _adapter(task: type[Task]) -> TypeAdapter[Any]:
    return TypeAdapter(task.Input)


@cache
def _schema(task: type[Task]) -> dict[str, Any]:
    return _adapter(task).json_schema()

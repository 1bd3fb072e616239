"""One input in JSON, in the forms that clients of TensorFlow Serving, KServe and TorchServe use."""

from typing import Any

from pydantic_core import from_json

from batchserve.errors import BadRequest
from batchserve.tasks.base import Task
from batchserve.tasks.image import from_base64
from batchserve.tasks.payloads import from_bytes, from_value

B64 = "b64"
# As TorchServe's handlers look for their input.
NAMES = ("data", "body")


def payload_of(task: type[Task], instance: Any) -> Any:
    """Return a payload for a task's `decode`.

    Args:
        task: whose.
        instance: X itself; `{"b64": …}`, which are bytes in base64; `{"data": X}` or
            `{"body": X}`; or bytes by any name, as in `{"image_bytes": {"b64": …}}`.

    Raises:
        BadRequest: of another type than the task takes.
        InvalidInput: not base64.
    """
    if isinstance(instance, dict) and len(instance) == 1:
        ((name, value),) = instance.items()
        if name == B64:
            return from_bytes(task, from_base64(_text(value)))
        if name in NAMES or (isinstance(value, dict) and value.keys() == {B64}):
            return payload_of(task, value)
    return from_value(task, instance)


def parsed(data: bytes) -> Any:
    """Return a JSON body's value.

    Raises:
        BadRequest: it is not JSON.
    """
    try:
        return from_json(data)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{B64}: it must be a string in base64")
    return value

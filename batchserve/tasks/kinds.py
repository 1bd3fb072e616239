"""What a person has to give a model, so that a page can ask for it."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from batchserve.tasks.base import Task
from batchserve.tasks.tensor import TensorTask


def input_of(task: Task) -> dict[str, Any]:
    """Return what X is: its `kind`, and what else is known of it.

    The kinds are `image` and `file` (with their `media_types`), `numbers` (with `dtype`, and the
    `shape` or null, -1 where a size varies), `text`, and `json` for everything else.
    """
    if task.media_types:
        is_image = any(kind.startswith("image/") for kind in task.media_types)
        return {"kind": "image" if is_image else "file", "media_types": list(task.media_types)}
    if isinstance(task, TensorTask) and task.Input is TensorTask.Input:
        shape = None if task.shape is None else list(task.shape)
        return {"kind": "numbers", "dtype": str(task.dtype), "shape": shape}
    return {"kind": "text" if _takes_text(type(task)) else "json"}


@cache
def _takes_text(task: type[Task]) -> bool:
    return TypeAdapter(task.Input).json_schema().get("type") == "string"

"""Tasks: what a model's inputs and outputs mean."""

import torch

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.importing import import_attribute
from batchserve.tasks.base import Task
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask

BUILT_IN: dict[str, type[Task]] = {
    "tensor": TensorTask,
    "image-classification": ImageClassification,
}


def build_task(config: ModelConfig, module: torch.nn.Module) -> Task:
    """Make the task that a model's config names.

    Args:
        config: `task` is a built-in name or `package.module:Class`.
        module: loaded, in fp32 on the CPU.

    Raises:
        LoadError: there is no such task, or it does not suit the model.
    """
    try:
        return _build(config, module)
    except LoadError as error:
        raise LoadError(f"model {config.name}: {error}") from error


def _build(config: ModelConfig, module: torch.nn.Module) -> Task:
    task_class = BUILT_IN.get(config.task)
    if task_class is None:
        if ":" not in config.task:
            raise LoadError(
                f"there is no task {config.task!r}; it is one of "
                f"{', '.join(BUILT_IN)}, or package.module:Class"
            )
        task_class = import_attribute(config.task)
        if not (isinstance(task_class, type) and issubclass(task_class, Task)):
            raise LoadError(f"{config.task} is no subclass of batchserve.tasks.base.Task")
        if missing := sorted(task_class.__abstractmethods__):
            raise LoadError(f"{config.task} lacks {', '.join(missing)}")
    return task_class.from_config(config, module)

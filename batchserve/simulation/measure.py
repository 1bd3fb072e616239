"""What a model's passes take here: load it and warm it up, as the server does."""

import asyncio
import sys
from pathlib import Path

from batchserve.config import Config, ModelConfig
from batchserve.memory import use_huge_pages


def measure(config: Config, model: ModelConfig, folder: Path) -> dict[int, float]:
    """Return seconds of a forward pass by batch size.

    Args:
        config: the whole one.
        model: of its models.
        folder: where modules lie that the config names.

    Raises:
        LoadError: it cannot be loaded.
    """
    sys.path.insert(0, str(folder))
    use_huge_pages()
    # Importing torch takes seconds, which only this needs to spend.
    from batchserve.own_thread import keep_to_one_core  # noqa: PLC0415
    from batchserve.repository import ModelVersion  # noqa: PLC0415

    # What is simulated computes one batch at a time.
    alone = model.model_copy(update={"parallel_batches": False})

    async def load() -> dict[int, float]:
        version = ModelVersion(alone, threads=config.server.threads_of_forward)
        await version.load(lambda _model, _batch: None)
        await version.close()
        return version.forward_s

    keep_to_one_core()
    return asyncio.run(load())

"""The models that a worker starts with: those of its config, or what operators made of them."""

import logging
import sys
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from rich.console import Console

from batchserve.config import Config
from batchserve.errors import StartupError
from batchserve.lineage import LINEAGE
from batchserve.loading_bar import loading_bar
from batchserve.permission import permitted
from batchserve.repository import ModelRepository
from batchserve.repository.follower import Follower, Identity
from batchserve.repository.version import OnBatch, OnFault
from batchserve.stores import open_store

logger = logging.getLogger("batchserve")


async def load_models(
    config: Config, on_batch: OnBatch, on_fault: OnFault
) -> tuple[ModelRepository, Follower | None]:
    """Return the models, and who follows what is wanted of them, if there is administration."""
    hang_s, threads = config.server.hang_seconds, config.server.threads_of_forward
    strict = LINEAGE.is_covered(config.server.workers)
    administered = config.server.admin_token is not None
    configs = () if administered else config.models
    repository = ModelRepository(configs, on_batch, on_fault, hang_s, threads)
    follower = _follower(config, repository) if administered else None
    async with _loading_bar(config, repository):
        if follower is None:
            await repository.load(strict=strict)
            return repository, None
        try:
            await follower.start(strict=strict)
        except StartupError:
            await follower.close()
            await repository.close()
            raise
    return repository, follower


def _loading_bar(config: Config, repository: ModelRepository) -> AbstractAsyncContextManager[None]:
    """Show how far the models are, where this process has the terminal for itself."""
    if config.server.workers > 1 or not LINEAGE.first:
        return nullcontext()
    console = Console(file=sys.stderr)
    return loading_bar(lambda: repository.versions, console, logger.handlers)


def _follower(config: Config, repository: ModelRepository) -> Follower:
    return Follower(
        repository,
        partial(open_store, config.server.state),
        config.models,
        partial(permitted, config),
        Identity(LINEAGE.server, LINEAGE.generation),
    )

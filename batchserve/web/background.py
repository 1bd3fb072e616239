"""What goes on beside the serving: gauges are sampled, statistics shared."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web

from batchserve.repository import ModelRepository
from batchserve.web.keys import METRICS, MODEL_STATS, REPOSITORY

logger = logging.getLogger(__name__)

GAUGE_SECONDS = 0.5


def meanwhile(
    work: Callable[[web.Application], Coroutine[Any, Any, None]],
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a context in which some work goes on beside the serving."""

    async def context(app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(work(app), name=work.__name__)
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return context


async def sample_gauges(app: web.Application) -> None:
    """Sample the gauges, off the path of requests."""
    metrics, repository = app[METRICS], app[REPOSITORY]
    metrics.serving.set(1)
    shown: dict[tuple[str, str], tuple[int, int, float, int]] = {}
    try:
        while True:
            for version in repository.versions:
                metrics.introduce(version.name, version.version, version.config.slo_ms)
            # Those of a version that is gone stay, at nothing.
            gone = dict.fromkeys(shown, (0, 0, 0.0, 0))
            shown = _samples(repository)
            for (name, number), sample in (gone | shown).items():
                metrics.sample(name, number, *sample)
            # For those who ask another worker.
            metrics.count()
            await asyncio.sleep(GAUGE_SECONDS)
    finally:
        metrics.count()


def _samples(repository: ModelRepository) -> dict[tuple[str, str], tuple[int, int, float, int]]:
    samples: dict[tuple[str, str], tuple[int, int, float, int]] = {}
    for version in [*repository.versions, *repository.retiring]:
        if version.loaded:
            batcher = version.batcher
            # It may be there twice, while it is replaced.
            key = version.name, version.version
            queued, in_flight, backlog_s, at_once = samples.get(key, (0, 0, 0.0, 0))
            samples[key] = (
                queued + batcher.queued,
                in_flight + batcher.in_flight,
                backlog_s + batcher.scheduler.backlog_s(batcher.clock()),
                at_once + batcher.runner.streams,
            )
    return samples


async def share_model_stats(app: web.Application) -> None:
    """Leave the statistics where other workers find them, the last of them at the end."""
    kept = app[MODEL_STATS]
    try:
        try:
            while True:
                await asyncio.to_thread(kept.save)
                await asyncio.sleep(GAUGE_SECONDS)
        finally:
            await asyncio.to_thread(kept.save)
    except OSError as error:
        logger.warning("the statistics of this worker are not shared any more: %s", error)

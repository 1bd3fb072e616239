"""Copies of requests, put to a candidate when nothing else is to be computed, for nobody.

What the candidate answers is compared with what the current version has answered, and forgotten.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchserve.batch import Priority, Terms
from batchserve.decoding import CodecPool
from batchserve.errors import InternalError, RequestError
from batchserve.inference import Answer, infer
from batchserve.metrics import Metrics
from batchserve.repository import ModelRepository, ModelVersion
from batchserve.runners.likeness import Likeness, likeness
from batchserve.trial_record import CANDIDATE, COMPARED, CURRENT

logger = logging.getLogger(__name__)

# For so long nobody may have been answered: who asks again at once must not meet a copy's pass.
QUIET_S = 0.05


@dataclass(frozen=True, slots=True)
class Copy:
    """What was asked of the current version, and its answer.

    Attributes:
        candidate: whom it is put to.
        payloads: at most as many as make one batch.
        size: bytes of the request's body.
        answer: of the current version.
    """

    candidate: ModelVersion
    payloads: Sequence[Any]
    size: int
    answer: Answer


class Shadow:
    """Puts the latest of what is offered to its candidate, as soon as this worker has time.

    Args:
        repository: tells whether there is anything else to compute.
        pool: decodes.
        metrics: count what comes of it.
        timeout_s: for one copy.
        quiet_s: for how long nothing may have been offered.
    """

    def __init__(
        self,
        repository: ModelRepository,
        pool: CodecPool,
        metrics: Metrics,
        timeout_s: float,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._repository = repository
        self._pool = pool
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._quiet_s = quiet_s
        self._latest: Copy | None = None
        self._offered_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    def offer(
        self, candidate: ModelVersion, payloads: Sequence[Any], size: int, answer: Answer
    ) -> None:
        """Take a request that was answered, in place of one that is still waiting here.

        Args:
            candidate: it may be put to this version.
            payloads: as the client sent them, or items already.
            size: bytes of the request's body.
            answer: the current version's.
        """
        if self._running is not None:
            return
        loop = asyncio.get_running_loop()
        most = candidate.max_batch_size
        self._latest = Copy(candidate, payloads[:most], size, answer)
        self._offered_s = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._quiet_s, self._look)

    async def close(self) -> None:
        """Let go of what is waiting or running."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._latest = None
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def _look(self) -> None:
        """Begin, if it has been quiet for long enough and still is."""
        loop = asyncio.get_running_loop()
        left_s = self._offered_s + self._quiet_s - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._look)
            return
        self._timer, copy, self._latest = None, self._latest, None
        if copy is not None and copy.candidate.ready and self._repository.idle:
            self._running = asyncio.create_task(self._run(copy), name="shadow")
            self._running.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._running = None

    async def _run(self, copy: Copy) -> None:
        outcome = COMPARED
        try:
            answer = await self._ask(copy)
            likenesses = await asyncio.to_thread(_compare, copy.answer.rows, answer.rows)
            self._count_comparison(copy, answer, likenesses)
        except RequestError as error:
            outcome = error.code
        except Exception:
            logger.exception("%s, a candidate, failed on the copy of a request", copy.candidate.key)
            outcome = InternalError.code
        self._metrics.shadow_requests.labels(*_labels(copy), outcome).inc()

    async def _ask(self, copy: Copy) -> Answer:
        candidate, size = copy.candidate, copy.size
        deadline_s = candidate.batcher.clock() + self._timeout_s
        with candidate.batcher.arrival(Terms(deadline_s, deadline_s, Priority.BULK)) as arrival:
            return await infer(candidate, arrival, copy.payloads, size, lambda row: row, self._pool)

    def _count_comparison(self, copy: Copy, answer: Answer, likenesses: Sequence[Likeness]) -> None:
        labels, metrics = _labels(copy), self._metrics
        for found in likenesses:
            metrics.on_likeness(labels, found.kind, found.difference)
        for whose, seconds in ((CURRENT, copy.answer.forward_s), (CANDIDATE, answer.forward_s)):
            metrics.shadow_forward_seconds.labels(*labels, whose).observe(seconds)


def _compare(rows: Sequence[Any], others: Sequence[Any]) -> list[Likeness]:
    return [likeness(row, other) for row, other in zip(rows[: len(others)], others, strict=True)]


def _labels(copy: Copy) -> tuple[str, str, str]:
    """Return the model, the candidate and the version that it is compared with."""
    return copy.candidate.name, copy.candidate.version, copy.answer.model.version

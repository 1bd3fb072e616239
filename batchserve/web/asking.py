"""One request, put to the candidate first if it is one of its share, and else to the current one.

Whatever the candidate does other than to answer, the current version answers: who asks without
naming a version notices nothing of what is tried on them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from batchserve.batch import Item, Terms
from batchserve.decoding import CodecPool
from batchserve.errors import DeadlineExceeded, InternalError, RequestError
from batchserve.inference import Answer, infer
from batchserve.repository import ModelVersion
from batchserve.tasks.base import Task

logger = logging.getLogger(__name__)

# Of the time until the deadline, what the candidate may take, so that the other part is left for
# the current version.
SHARE_OF_TIME = 0.5

# From an output row, on the CPU, and the task of who made it, to what is answered for it.
EncodeOf = Callable[[Any, Task], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a request's body holds, in whatever form it came.

    Attributes:
        payloads: at least one; the model's task decodes each.
        size: bytes of the whole body.
        terms: where the body states them; None: those of the headers.
    """

    payloads: Sequence[Any]
    size: int
    terms: Terms | None = None


Q = TypeVar("Q", bound=Question)


class Asking(Generic[Q]):
    """A request that is read once, and put to one version or to two.

    Args:
        terms: of the headers.
        read: reads and parses the body.
        encode: turns an output row into what is answered for it.
        pool: decodes and encodes.

    Attributes:
        terms: as far as they are known.
        timeout: ends the whole; set by who asks.
        items: of this request, at the version that answered.
        refusal: the code of what the candidate had instead of an answer.
    """

    timeout: asyncio.Timeout

    def __init__(
        self, terms: Terms, read: Callable[[], Awaitable[Q]], encode: EncodeOf, pool: CodecPool
    ) -> None:
        self.terms = terms
        self.items: Sequence[Item] = ()
        self.refusal: str | None = None
        self._read = read
        self._encode = encode
        self._pool = pool
        self._reading = False
        self._question: Q | None = None

    async def put_to_candidate(self, model: ModelVersion) -> tuple[Q, Answer] | None:
        """Return the question with the candidate's answer; None: it has none, as `refusal` says.

        Raises:
            RequestError: of reading, which whoever is asked would have met.
        """
        try:
            return await self.put_to(model, SHARE_OF_TIME)
        except Exception as error:
            if self._reading:
                raise
            self.refusal = _code_of(model, error)
            return None

    async def put_to(self, model: ModelVersion, share_of_time: float = 1.0) -> tuple[Q, Answer]:
        """Return the question with a version's answer.

        Args:
            model: it is announced to its batcher before anything is read.
            share_of_time: that it may take, of what is left until the deadline.

        Raises:
            RequestError: of reading, of the batcher or of `infer`.
            TimeoutError: the share is over.
        """
        clock = model.batcher.clock
        with model.batcher.arrival(self._terms(share_of_time, clock())) as arrival:
            question = await self._read_once(clock)
            arrival.terms = self._terms(share_of_time, clock())
            answering = infer(
                model, arrival, question.payloads, question.size,
                lambda row: self._encode(row, model.task), self._pool,
            )  # fmt: skip
            if share_of_time == 1:
                answer = await answering
            else:
                answer = await asyncio.wait_for(answering, arrival.terms.deadline_s - clock())
        self.items = arrival.items
        return question, answer

    def _terms(self, share_of_time: float, now_s: float) -> Terms:
        terms = self.terms
        if share_of_time == 1:
            return terms
        deadline_s = now_s + share_of_time * (terms.deadline_s - now_s)
        return terms._replace(due_s=min(terms.due_s, deadline_s), deadline_s=deadline_s)

    async def _read_once(self, clock: Callable[[], float]) -> Q:
        if self._question is None:
            self._reading = True
            self._question = await self._read()
            self._reading = False
            if self._question.terms is not None:
                self.terms = self._question.terms
                left_s = self.terms.deadline_s - clock()
                self.timeout.reschedule(asyncio.get_running_loop().time() + left_s)
        return self._question


def _code_of(model: ModelVersion, error: Exception) -> str:
    if isinstance(error, RequestError):
        return error.code
    if isinstance(error, TimeoutError):
        return DeadlineExceeded.code
    logger.error("%s, a candidate, failed, and another version answers", model.key, exc_info=error)
    return InternalError.code

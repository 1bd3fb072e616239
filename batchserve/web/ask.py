"""Have a model answer a request, whatever protocol it came in."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from batchserve.batch import Terms
from batchserve.errors import DeadlineExceeded
from batchserve.inference import Answer, Encode, infer
from batchserve.repository import ModelVersion
from batchserve.web.keys import ANSWER, CONFIG, MODEL, POOL, RECORD, REPOSITORY
from batchserve.web.terms import read_terms


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


def find_model(request: web.Request, name: str | None, version: str | None = None) -> ModelVersion:
    """Return the version that shall answer; None: the first model, or the current version.

    Raises:
        NotFound, NotReady, Draining: it cannot answer.
    """
    model = request.app[REPOSITORY].find(name, version)
    request[MODEL] = model
    model.check_ready()
    return model


def terms_of(request: web.Request, model: ModelVersion) -> Terms:
    """Return what the request's headers and the config say of time and priority.

    Raises:
        BadRequest: a header that means nothing.
    """
    return read_terms(
        request.headers,
        model.batcher.clock(),
        request.app[CONFIG].server.default_timeout_ms,
        model.config.slo_ms,
    )


async def ask(
    request: web.Request,
    model: ModelVersion,
    terms: Terms,
    read: Callable[[], Awaitable[Q]],
    encode: Encode,
) -> tuple[Q, Answer]:
    """Announce the request to the batcher, read it, and return it with the model's answer.

    Args:
        request: whose body is not read yet.
        model: as `find_model` returned it, in the same turn of the event loop.
        terms: as `terms_of` returned them.
        read: reads and parses the body; it is not called if the request is refused.
        encode: turns an output row, on the CPU, into what is to be answered for it.

    Raises:
        RequestError: of `read`, `infer` or the batcher.
        DeadlineExceeded: there is no answer in time.
    """
    app, clock = request.app, model.batcher.clock
    began_s = clock()
    try:
        async with asyncio.timeout(terms.deadline_s - began_s) as timeout:
            with model.batcher.arrival(terms) as arrival:
                question = await read()
                if question.terms is not None:
                    arrival.terms = terms = question.terms
                    left_s = terms.deadline_s - clock()
                    timeout.reschedule(asyncio.get_running_loop().time() + left_s)
                answer = await infer(
                    model, arrival, question.payloads, question.size, encode, app[POOL]
                )
    except TimeoutError:
        timeout_ms = max(1, round(1000 * (terms.deadline_s - began_s)))
        raise DeadlineExceeded(f"no answer within {timeout_ms} ms") from None
    request[ANSWER] = answer
    if record := request.get(RECORD):
        record.note(arrival.items, answer.decode_s)
    return question, answer


def headers_of(answer: Answer) -> dict[str, str]:
    """Return what every answer of a model tells of its batch and of its time."""
    return {
        "X-Batch-Size": str(answer.batch_size),
        "X-Batch-Reason": answer.batch_reason,
        "Server-Timing": (
            f"decode;dur={1000 * answer.decode_s:.3f}, "
            f"queue;dur={1000 * answer.queue_s:.3f}, "
            f"forward;dur={1000 * answer.forward_s:.3f}"
        ),
    }

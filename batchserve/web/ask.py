"""Have a model answer a request, whatever protocol it came in."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from batchserve.batch import Terms
from batchserve.errors import DeadlineExceeded
from batchserve.inference import Answer
from batchserve.repository import ModelVersion, Trial
from batchserve.web.asking import Asking, EncodeOf, Q, Question
from batchserve.web.keys import (
    ANSWER,
    ARRIVED_S,
    CONFIG,
    METRICS,
    MODEL,
    POOL,
    RECORD,
    REPOSITORY,
    REQUEST_ID,
    SHADOW,
    TRIAL,
)
from batchserve.web.terms import read_terms


def find_model(request: web.Request, name: str | None, version: str | None = None) -> ModelVersion:
    """Return the version that shall answer; None: the first model, or the current version.

    Raises:
        NotFound, NotReady, Draining: it cannot answer.
    """
    model = request.app[REPOSITORY].find(name, version)
    request[MODEL] = model
    model.check_ready()
    if version is None:
        note_trial(request, model)
    return model


def note_trial(request: web.Request, model: ModelVersion) -> None:
    """Have `ask` know what is tried beside the current version; of a request that names none."""
    trial = request.app[REPOSITORY].trial(model)
    if trial is not None:
        request[TRIAL] = trial


def terms_of(request: web.Request, model: ModelVersion) -> Terms:
    """Return what the request's headers and the config say of time and priority.

    Raises:
        BadRequest: a header that means nothing.
    """
    request[ARRIVED_S] = model.batcher.clock()
    return read_terms(
        request.headers,
        request[ARRIVED_S],
        request.app[CONFIG].server.default_timeout_ms,
        model.config.slo_ms,
    )


async def ask(
    request: web.Request,
    model: ModelVersion,
    terms: Terms,
    read: Callable[[], Awaitable[Q]],
    encode: EncodeOf,
) -> tuple[Q, Answer]:
    """Announce the request to the batcher, read it, and return it with the model's answer.

    Args:
        request: whose body is not read yet.
        model: as `find_model` returned it, in the same turn of the event loop.
        terms: as `terms_of` returned them.
        read: reads and parses the body; it is not called if the request is refused.
        encode: turns an output row, on the CPU, with the task of who made it, into what is to be
            answered for it.

    Returns:
        The answer may be that of a candidate, if the request named no version.

    Raises:
        RequestError: of `read`, `infer` or the batcher.
        DeadlineExceeded: there is no answer in time.
    """
    app, clock, trial = request.app, model.batcher.clock, request.get(TRIAL)
    asking, answered = Asking(terms, read, encode, app[POOL]), None
    try:
        async with asyncio.timeout(terms.deadline_s - clock()) as asking.timeout:
            if trial is not None and trial.takes(request[REQUEST_ID]):
                answered = await asking.put_to_candidate(trial.version)
            question, answer = answered or await asking.put_to(model)
    except TimeoutError:
        timeout_ms = max(1, round(1000 * (asking.terms.deadline_s - request[ARRIVED_S])))
        raise DeadlineExceeded(f"no answer within {timeout_ms} ms") from None
    request[MODEL], request[ANSWER] = answer.model, answer
    if record := request.get(RECORD):
        record.note(asking.items, answer.decode_s)
    if trial is not None:
        _note_trial(app, trial, asking.refusal, question, answer)
    return question, answer


def _note_trial(
    app: web.Application, trial: Trial, refusal: str | None, question: Question, answer: Answer
) -> None:
    candidate = trial.version
    if refusal is not None:
        app[METRICS].fallbacks.labels(candidate.name, candidate.version, refusal).inc()
    if trial.shadow and answer.model is not candidate:
        app[SHADOW].offer(candidate, question.payloads, question.size, answer)


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

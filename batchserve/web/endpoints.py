"""Paths of the operator's own, at which there is an answer in time, whatever happens.

What Clipper (Crankshaw et al., NSDI 2017) called an application: a model, a promise, and a default
output that is answered, and marked, in place of what does not come.
"""

import asyncio
import random
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any, ClassVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from batchserve.batch import Terms
from batchserve.config import EndpointConfig, ModelConfig
from batchserve.errors import (
    DeadlineExceeded,
    InternalError,
    ModelFailed,
    NotFound,
    NotReady,
    RequestError,
    TooLarge,
    Unavailable,
)
from batchserve.repository import ModelVersion
from batchserve.tasks.base import Task
from batchserve.web.ask import ask, note_trial
from batchserve.web.body import Body, fetch_inputs, read_body
from batchserve.web.formats import STRUCTURED, wanted
from batchserve.web.keys import ARRIVED_S, CONFIG, METRICS, MODEL, POOL, REPOSITORY
from batchserve.web.predict import accepted_by, read_parameters, respond
from batchserve.web.schema import endpoint_schema_of
from batchserve.web.terms import ON_THE_WAY, read_terms

# What is nobody's fault but ours.
FAILURES = (Unavailable, DeadlineExceeded, ModelFailed, InternalError)
# All are exact as floating-point numbers, which is what JavaScript has.
QUERY_ID_BITS = 53


class _Unread(Task):
    """Any input, for a model that is not there: only how many there are is of interest."""

    Parameters: ClassVar[type[BaseModel]] = type(
        "Ignored", (BaseModel,), {"model_config": ConfigDict(extra="ignore")}
    )
    media_types: ClassVar[tuple[str, ...]] = ("*/*",)
    arrays: ClassVar[bool] = True

    def decode(self, payload: Any) -> Any:
        raise NotImplementedError

    def encode(self, row: Any, parameters: Any) -> Any:
        raise NotImplementedError


class Endpoint:
    """One path.

    Args:
        config: its model and its promise.
        models: its own among them.
    """

    def __init__(self, config: EndpointConfig, models: Iterable[ModelConfig]) -> None:
        self._config = config
        # As many as can ever wait.
        self._most_inputs = max(
            model.batching.max_queue_size for model in models if model.name == config.model
        )

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with the model's outputs, or with the default in their place.

        Raises:
            RequestError: the client's mistake, or there is no default.
        """
        pool = request.app[POOL]
        form, media_type = wanted(accepted_by(request), STRUCTURED)
        model = self._find(request)
        task = model.task if model and model.loaded else _Unread()
        parameters = read_parameters(task, request.query)
        terms = self._terms(request, model)
        body: Body | None = None
        try:
            body = await self._read(request, task, terms)
            _, answer = await ask(
                request,
                _there(model),
                terms,
                read=partial(fetch_inputs, request, body, task),
                encode=partial(form.encode, parameters=parameters),
            )
        except FAILURES as error:
            if self._config.default_output is None:
                raise
            content = self._defaults(request, body, error)
            return web.Response(body=form.write(content), content_type=media_type)
        content = _content([self._answer(request, output) for output in answer.outputs], body)
        return await respond(form, media_type, content, answer, pool)

    def _find(self, request: web.Request) -> ModelVersion | None:
        try:
            model = request.app[REPOSITORY].find(self._config.model, self._config.version)
        except NotFound:
            return None
        request[MODEL] = model
        if self._config.version is None:
            note_trial(request, model)
        return model

    def _terms(self, request: web.Request, model: ModelVersion | None) -> Terms:
        """Return until when there must be an answer: no client can have the promise put off."""
        now_s, most_ms = monotonic(), request.app[CONFIG].server.default_timeout_ms
        request[ARRIVED_S] = now_s
        slo_ms = self._config.slo_ms
        if slo_ms is None:
            promised_ms = model.config.slo_ms if model else None
            return read_terms(request.headers, now_s, most_ms, promised_ms)
        within_ms = (1 - ON_THE_WAY) * slo_ms
        terms = read_terms(request.headers, now_s, within_ms, None)
        deadline_s = min(terms.deadline_s, now_s + within_ms / 1000)
        return terms._replace(due_s=deadline_s, deadline_s=deadline_s)

    async def _read(self, request: web.Request, task: Task, terms: Terms) -> Body:
        """Read the whole request, for how many inputs it has is needed in any case."""
        schema = endpoint_schema_of(type(task)).request
        try:
            async with asyncio.timeout(terms.deadline_s - monotonic()):
                body = await read_body(request, schema, task, request.app[POOL])
        except TimeoutError:
            raise DeadlineExceeded("the request has not come in in time") from None
        if len(body.payloads) > self._most_inputs:
            raise TooLarge(
                f"{len(body.payloads)} inputs in one request; at most {self._most_inputs} can "
                f"ever wait, so send them in several requests"
            )
        return body

    def _defaults(
        self, request: web.Request, body: Body | None, error: RequestError
    ) -> dict[str, Any]:
        """Return the default for each input, and count that it was needed."""
        answers = [
            self._answer(request, self._config.default_output, str(error))
            for _ in range(len(body.payloads) if body else 1)
        ]
        request.app[METRICS].defaults.labels(
            self._config.model, answers[0]["version"] or "", self._config.path, error.code
        ).inc()
        return _content(answers, body)

    def _answer(
        self, request: web.Request, output: Any, explanation: str | None = None
    ) -> dict[str, Any]:
        model = request.get(MODEL)
        explained = {} if explanation is None else {"default_explanation": explanation}
        return {
            "query_id": random.getrandbits(QUERY_ID_BITS),
            "output": output,
            "default": explanation is not None,
            **explained,
            "model": self._config.model,
            "version": model.version if model else self._config.version,
        }


def _there(model: ModelVersion | None) -> ModelVersion:
    if model is None:
        raise NotReady("the model of this path is not there")
    model.check_ready()
    return model


def _content(answers: list[dict[str, Any]], body: Body | None) -> dict[str, Any]:
    # Before the request has been read, nobody knows that it is a list.
    return {"batch_predictions": answers} if body and body.is_list else answers[0]

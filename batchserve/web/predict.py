"""POST /predict: from the request to the model's answer."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from batchserve.errors import BadRequest, DeadlineExceeded
from batchserve.inference import Answer, infer
from batchserve.tasks.base import Task
from batchserve.web.body import read_body
from batchserve.web.keys import ANSWER, CONFIG, METRICS, MODEL, POOL, REPOSITORY
from batchserve.web.terms import read_terms


async def predict(request: web.Request) -> web.Response:
    """Answer with the model that the path names, the first one otherwise."""
    app, path = request.app, request.match_info
    model = app[REPOSITORY].find(path.get("name"), path.get("version"))
    request[MODEL] = model
    model.check_ready()
    parameters = _parameters(model.task, request.query)
    now_s = model.batcher.clock()
    terms = read_terms(
        request.headers, now_s, app[CONFIG].server.default_timeout_ms, model.config.slo_ms
    )
    try:
        async with asyncio.timeout(terms.deadline_s - now_s):
            with model.batcher.arrival(terms) as arrival:
                body = await read_body(request, model.task, app[POOL])
                answer = await infer(
                    model, arrival, body.payloads, body.size, parameters, app[POOL]
                )
    except TimeoutError:
        timeout_ms = 1000 * (terms.deadline_s - now_s)
        raise DeadlineExceeded(f"no answer within {timeout_ms:g} ms") from None
    request[ANSWER] = answer
    app[METRICS].decode_seconds.labels(model.name, model.version).observe(answer.decode_s)
    outputs: dict[str, Any] = (
        {"outputs": answer.outputs} if body.is_list else {"output": answer.outputs[0]}
    )
    content = {**outputs, "model": model.name, "version": model.version}
    if answer.is_small:
        return _respond(orjson.dumps(content), answer)
    return _respond(await app[POOL].encode(orjson.dumps, content), answer)


def _parameters(task: Task, query: Mapping[str, str]) -> BaseModel:
    try:
        return task.Parameters.model_validate(dict(query))
    except ValidationError as error:
        mistake = error.errors()[0]
        known = ", ".join(task.Parameters.model_fields) or "none"
        raise BadRequest(
            f"query parameter {mistake['loc'][0]}: {mistake['msg']}; known are: {known}"
        ) from None


def _respond(content: bytes, answer: Answer) -> web.Response:
    return web.Response(
        body=content,
        content_type="application/json",
        headers={
            "X-Batch-Size": str(answer.batch_size),
            "X-Batch-Reason": answer.batch_reason,
            "Server-Timing": (
                f"decode;dur={1000 * answer.decode_s:.3f}, "
                f"queue;dur={1000 * answer.queue_s:.3f}, "
                f"forward;dur={1000 * answer.forward_s:.3f}"
            ),
        },
    )

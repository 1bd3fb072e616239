"""POST /predict: from the request to the model's answer."""

import asyncio
import math
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

TIMEOUT = "X-Request-Timeout-Ms"


async def predict(request: web.Request) -> web.Response:
    """Answer with the model that the path names, the first one otherwise."""
    app, path = request.app, request.match_info
    model = app[REPOSITORY].find(path.get("name"), path.get("version"))
    request[MODEL] = model
    model.check_ready()
    parameters = _parameters(model.task, request.query)
    timeout_s = _timeout_s(request.headers, app[CONFIG].server.default_timeout_ms)
    deadline_s = model.batcher.clock() + timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            with model.batcher.arrival() as arrival:
                body = await read_body(request, model.task, app[POOL])
                answer = await infer(
                    model, arrival, body.payloads, body.size, parameters, deadline_s, app[POOL]
                )
    except TimeoutError:
        raise DeadlineExceeded(f"no answer within {1000 * timeout_s:g} ms") from None
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


def _timeout_s(headers: Mapping[str, str], default_ms: float) -> float:
    stated = headers.get(TIMEOUT)
    try:
        timeout_ms = default_ms if stated is None else float(stated)
    except ValueError:
        timeout_ms = math.nan
    if not (0 < timeout_ms < math.inf):
        raise BadRequest(f"{TIMEOUT}: {stated!r} is not a number of milliseconds above 0")
    return timeout_ms / 1000


def _respond(content: bytes, answer: Answer) -> web.Response:
    return web.Response(
        body=content,
        content_type="application/json",
        headers={
            "X-Batch-Size": str(answer.batch_size),
            "Server-Timing": (
                f"decode;dur={1000 * answer.decode_s:.3f}, "
                f"queue;dur={1000 * answer.queue_s:.3f}, "
                f"forward;dur={1000 * answer.forward_s:.3f}"
            ),
        },
    )

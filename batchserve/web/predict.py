"""POST /predict: from the request to the model's answer."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from batchserve.errors import BadRequest
from batchserve.inference import Answer
from batchserve.tasks.base import Task
from batchserve.web.ask import ask, find_model, headers_of, terms_of
from batchserve.web.body import read_body
from batchserve.web.keys import POOL


async def predict(request: web.Request) -> web.Response:
    """Answer with the model that the path names, the first one otherwise."""
    path, pool = request.match_info, request.app[POOL]
    model = find_model(request, path.get("name"), path.get("version"))
    parameters = read_parameters(model.task, request.query)
    body, answer = await ask(
        request,
        model,
        terms_of(request, model),
        read=partial(read_body, request, model.task, pool),
        encode=partial(model.task.encode, parameters=parameters),
    )
    outputs: dict[str, Any] = (
        {"outputs": answer.outputs} if body.is_list else {"output": answer.outputs[0]}
    )
    content = {**outputs, "model": model.name, "version": model.version}
    if answer.is_small:
        return _respond(orjson.dumps(content), answer)
    return _respond(await pool.encode(orjson.dumps, content), answer)


def read_parameters(
    task: Task, stated: Mapping[str, Any], what: str = "query parameter"
) -> BaseModel:
    """Return the task's parameters, as the query string or what else states them.

    Raises:
        BadRequest: it says what the task does not know.
    """
    try:
        return task.Parameters.model_validate(dict(stated))
    except ValidationError as error:
        mistake = error.errors()[0]
        known = ", ".join(task.Parameters.model_fields) or "none"
        raise BadRequest(
            f"{what} {mistake['loc'][0]}: {mistake['msg']}; known are: {known}"
        ) from None


def _respond(content: bytes, answer: Answer) -> web.Response:
    return web.Response(body=content, content_type="application/json", headers=headers_of(answer))

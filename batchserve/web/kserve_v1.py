"""KServe's protocol, version 1, which is that of TensorFlow Serving: instances to predictions.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from functools import partial
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, Field

from batchserve.errors import BadRequest, RequestError
from batchserve.tasks.base import Task
from batchserve.web.ask import ask, find_model, headers_of, terms_of
from batchserve.web.asking import Question
from batchserve.web.body import INLINE_PARSE_BYTES, check_head
from batchserve.web.formats import JSON
from batchserve.web.instances import parsed, payload_of
from batchserve.web.keys import POOL, REPOSITORY
from batchserve.web.predict import read_parameters

FORM = 'the body must be {"instances": [X, …]}, and may have "parameters": {…}'


class V1Request(BaseModel):
    """Several inputs; `inputs` is another name for `instances`."""

    instances: list[Any] = Field(min_length=1)
    parameters: dict[str, Any] = Field({}, description="As in the query string elsewhere.")


class V1Response(BaseModel):
    """An output for each instance."""

    predictions: list[Any]


async def list_models(request: web.Request) -> web.Response:
    """Name every model."""
    names = dict.fromkeys(version.name for version in request.app[REPOSITORY].versions)
    return web.json_response({"models": [*names]})


async def model_ready(request: web.Request) -> web.Response:
    """Say whether a model would answer now."""
    name = request.match_info["name"]
    if name.endswith(":predict"):
        raise web.HTTPMethodNotAllowed(request.method, ["POST"])
    model = request.app[REPOSITORY].find(name)
    model.check_ready()
    return web.json_response({"name": model.name, "ready": True})


async def predict(request: web.Request) -> web.Response:
    """Answer with a prediction for each instance."""
    model, pool = find_model(request, request.match_info["name"]), request.app[POOL]
    parameters: BaseModel = model.task.Parameters()

    async def read() -> Question:
        nonlocal parameters
        check_head(request)
        body = await request.read()
        if len(body) < INLINE_PARSE_BYTES:
            payloads, parameters = parse_predict(body, model.task)
        else:
            payloads, parameters = await pool.decode(parse_predict, body, model.task)
        return Question(payloads=payloads, size=len(body))

    def encode(row: Any, task: Task) -> Any:
        return task.encode(row, parameters)

    _, answer = await ask(request, model, terms_of(request, model), read, encode)
    work = partial(orjson.dumps, {"predictions": answer.outputs})
    content = work() if answer.is_small else await pool.encode(work)
    return web.Response(body=content, content_type=JSON, headers=headers_of(answer))


def parse_predict(body: bytes, task: Task) -> tuple[list[Any], BaseModel]:
    """Return a request's payloads, and the task's parameters.

    Raises:
        BadRequest: not JSON, not of the protocol's form, or not of the task's type.
        InvalidInput: bytes that are not base64.
    """
    stated = parsed(body)
    if not isinstance(stated, dict):
        raise BadRequest(FORM)
    instances = stated.get("instances", stated.get("inputs"))
    if not isinstance(instances, list) or not instances:
        raise BadRequest(FORM)
    parameters = stated.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest(f"parameters: {FORM}")
    payloads = [_payload(task, instances, index) for index in range(len(instances))]
    return payloads, read_parameters(task, parameters, "parameter")


def _payload(task: Task, instances: list[Any], index: int) -> Any:
    try:
        return payload_of(type(task), instances[index])
    except RequestError as error:
        raise type(error)(f"instances[{index}]: {error}") from error

"""POST /predict: from the request to the model's answer."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError

from batchserve.decoding import CodecPool
from batchserve.errors import BadRequest
from batchserve.inference import Answer
from batchserve.mistakes import first_in, place_of, reason_of
from batchserve.tasks.base import Task
from batchserve.web.ask import ask, find_model, headers_of, terms_of
from batchserve.web.body import URL, read_inputs
from batchserve.web.formats import Format, formats_for, wanted
from batchserve.web.keys import POOL
from batchserve.web.schema import schema_of


async def predict(request: web.Request) -> web.Response:
    """Answer with the model that the path names, the first one otherwise."""
    path, pool = request.match_info, request.app[POOL]
    model = find_model(request, path.get("name"), path.get("version"))
    task = model.task
    parameters = read_parameters(task, query_of(request))
    form, media_type = wanted(accepted_by(request), formats_for(task))
    body, answer = await ask(
        request,
        model,
        terms_of(request, model),
        read=partial(read_inputs, request, schema_of(type(task)).request, task, pool),
        encode=partial(form.encode, parameters=parameters),
    )
    outputs: dict[str, Any] = (
        {"outputs": answer.outputs} if body.is_list else {"output": answer.outputs[0]}
    )
    content = {**outputs, "model": model.name, "version": answer.model.version}
    return await respond(form, media_type, content, answer, pool)


def query_of(request: web.Request) -> dict[str, str]:
    """Return the query string, without the input that that of a GET names."""
    query = dict(request.query)
    if request.method == hdrs.METH_GET:
        query.pop(URL, None)
    return query


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
        mistake = first_in(error)
        where = place_of(mistake)
        known = ", ".join(task.Parameters.model_fields) or "none"
        raise BadRequest(
            f"{f'{what} {where}' if where else f'{what}s'}: {reason_of(mistake)}; "
            f"known are: {known}"
        ) from None


def accepted_by(request: web.Request) -> str:
    """Return what the client accepts, as one header; nothing if it does not say."""
    return ",".join(request.headers.getall(hdrs.ACCEPT, ()))


async def respond(
    form: Format, media_type: str, content: Mapping[str, Any], answer: Answer, pool: CodecPool
) -> web.Response:
    """Return a response that holds an answer in some format."""
    if answer.is_small:
        body = form.write(content)
    else:
        body = await pool.encode(form.write, content)
    return web.Response(body=body, content_type=media_type, headers=headers_of(answer))

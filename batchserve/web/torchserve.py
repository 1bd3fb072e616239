"""TorchServe's inference API: a body in, the bare output out.

https://github.com/pytorch/serve/blob/master/docs/inference_api.md
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from batchserve.errors import BadRequest
from batchserve.tasks.base import Task
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.payloads import from_bytes
from batchserve.web.ask import ask, find_model, headers_of, terms_of
from batchserve.web.asking import Question
from batchserve.web.body import INLINE_PARSE_BYTES, MULTIPART, Part, check_head, read_parts
from batchserve.web.formats import JSON
from batchserve.web.instances import NAMES, parsed, payload_of
from batchserve.web.keys import POOL
from batchserve.web.predict import read_parameters

TEXT = "text/plain"


async def predict(request: web.Request) -> web.Response:
    """Answer with the output itself; with a list of them, if a form has several parts."""
    path, pool = request.match_info, request.app[POOL]
    model = find_model(request, path["name"], path.get("version"))
    parameters = read_parameters(model.task, request.query)
    _, answer = await ask(
        request,
        model,
        terms_of(request, model),
        read=partial(_read, request, model.task),
        encode=lambda row, task: task.encode(row, parameters),
    )
    outputs = [as_handlers_do(model.task, output) for output in answer.outputs]
    output = outputs[0] if len(outputs) == 1 else outputs
    if isinstance(output, str):
        return web.Response(text=output, content_type=TEXT, headers=headers_of(answer))
    work = partial(orjson.dumps, output)
    content = work() if answer.is_small else await pool.encode(work)
    return web.Response(body=content, content_type=JSON, headers=headers_of(answer))


def as_handlers_do(task: Task, output: Any) -> Any:
    """Return an output as TorchServe's own handler for this kind of task gives it.

    `image_classifier` answers scores by label, best first. Of classes that share a label, the best
    is kept. A task that answers in a form of its own keeps it.
    """
    if task.Output != ImageClassification.Output:
        return output
    scores: dict[str, float] = {}
    for prediction in output:
        scores.setdefault(prediction["label"], prediction["score"])
    return scores


async def _read(request: web.Request, task: Task) -> Question:
    check_head(request)
    if request.content_type == MULTIPART:
        parts = await read_parts(request, NAMES)
        size = request.content.total_bytes
    else:
        # curl -T states no type, and aiohttp takes that for a file.
        data = await request.read()
        parts, size = [Part(data, request.content_type)], len(data)
    if size < INLINE_PARSE_BYTES:
        payloads = _payloads(task, parts)
    else:
        payloads = await request.app[POOL].decode(_payloads, task, parts)
    return Question(payloads=payloads, size=size)


def _payloads(task: Task, parts: Sequence[Part]) -> list[Any]:
    return [_payload(type(task), part) for part in parts]


def _payload(task: type[Task], part: Part) -> Any:
    if part.content_type.partition(";")[0].strip().lower() == JSON:
        return payload_of(task, parsed(part.data))
    if not part.data:
        raise BadRequest("the body is empty")
    return from_bytes(task, part.data)

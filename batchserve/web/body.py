"""From a request's body, in whatever form it comes, to the payloads that a task decodes."""

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError
from pydantic import ValidationError

from batchserve.decoding import CodecPool
from batchserve.errors import BadRequest, InvalidInput, TooLarge, UnsupportedMedia
from batchserve.tasks.base import Task
from batchserve.web.ask import Question
from batchserve.web.keys import CONFIG
from batchserve.web.schema import schema_of

JSON = "application/json"
MULTIPART = "multipart/form-data"
PART = "file"
# What aiohttp undoes as it reads.
ENCODINGS = ("identity", "gzip", "deflate")
# A larger body takes longer to parse than a hand-over to a thread.
INLINE_JSON_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Body(Question):
    """A body in our own protocol.

    Attributes:
        is_list: whether the client sent a list, and gets one.
    """

    is_list: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form, its Content-Transfer-Encoding undone."""

    data: bytes
    content_type: str


async def read_body(request: web.Request, task: Task, pool: CodecPool) -> Body:
    """Read and parse the body: JSON, multipart, or one raw input.

    Raises:
        BadRequest: not JSON, not multipart, or a field missing or of the wrong type.
        TooLarge: over `max_body_mb`.
        UnsupportedMedia: a content type or encoding that neither we nor the task read.
    """
    check_head(request)
    kind = request.content_type
    if kind == JSON:
        return await _read_json(request, task, pool)
    if task.media_types and kind == MULTIPART:
        return await _read_multipart(request)
    if any(fnmatch(kind, accepted) for accepted in task.media_types):
        data = await request.read()
        if not data:
            raise BadRequest("the body is empty")
        return Body(payloads=[data], is_list=False, size=len(data))
    accepted = [JSON, *([MULTIPART, *task.media_types] if task.media_types else [])]
    raise UnsupportedMedia(
        f"Content-Type {kind} is not read here; state what you send in a header, "
        f"Content-Type: one of {', '.join(accepted)}"
    )


def check_head(request: web.Request) -> None:
    """Raise if the body is too large, or encoded as we do not read it; before it is read.

    Raises:
        TooLarge: it says that it is over `max_body_mb`.
        UnsupportedMedia: of its encoding.
    """
    check_size(request, request.content_length or 0)
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ENCODINGS:
        raise UnsupportedMedia(
            f"Content-Encoding {encoding} is not read here; send one of {', '.join(ENCODINGS)}"
        )


def check_size(request: web.Request, size: int) -> None:
    """Raise TooLarge if a body of `size` bytes is over the limit."""
    if size > request.client_max_size:
        raise body_too_large(request)


def body_too_large(request: web.Request) -> TooLarge:
    limit_mb = request.app[CONFIG].server.max_body_mb
    return TooLarge(f"the body is over the limit of max_body_mb={limit_mb:g}")


async def _read_json(request: web.Request, task: Task, pool: CodecPool) -> Body:
    data = await request.read()
    if len(data) < INLINE_JSON_BYTES:
        payloads, is_list = parse_json(data, task)
    else:
        payloads, is_list = await pool.decode(parse_json, data, task)
    return Body(payloads=payloads, is_list=is_list, size=len(data))


def parse_json(data: bytes, task: Task) -> tuple[list[Any], bool]:
    """Return the payloads of a JSON body, and whether the client sent a list.

    Raises:
        BadRequest: it is not JSON, or not of the task's form.
    """
    try:
        body: Any = schema_of(type(task)).request.model_validate_json(data)
    except ValidationError as error:
        raise BadRequest(_explain(error)) from None
    is_list = "inputs" in body.model_fields_set
    return (body.inputs if is_list else [body.input]), is_list


def _explain(error: ValidationError) -> str:
    mistake = error.errors(include_url=False, include_input=False)[0]
    message = mistake["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "json_invalid":
        return f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}"
    if mistake["type"] == "extra_forbidden":
        return f'{where}: unknown field; the body must be {{"input": X}} or {{"inputs": [X, …]}}'
    return f"{where}: {message}" if where else message


async def _read_multipart(request: web.Request) -> Body:
    payloads = [part.data for part in await read_parts(request, (PART,))]
    return Body(payloads=payloads, is_list=len(payloads) > 1, size=request.content.total_bytes)


async def read_parts(request: web.Request, names: Sequence[str]) -> list[Part]:
    """Read a form, each part of which has one of these names.

    Raises:
        BadRequest: it is no form, has no part, or one of another name.
        InvalidInput: a part is not base64, though it says so.
        TooLarge: over `max_body_mb`.
    """
    wanted = " or ".join(map(repr, names))
    parts: list[Part] = []
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name not in names:
                raise BadRequest(
                    f"a part of the form is not named {wanted}; send files as {wanted}"
                )
            # decode: undoes a Content-Transfer-Encoding, base64 among them.
            data = bytes(await part.read(decode=True))
            parts.append(Part(data, part.headers.get("Content-Type", "")))
            check_size(request, request.content.total_bytes)
    except binascii.Error as error:
        raise InvalidInput(f"a part of the form is not base64, as it says: {error}") from error
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as error:
        raise BadRequest(f"the body is not multipart/form-data: {error}") from error
    if not parts:
        raise BadRequest(f"the form has no part named {wanted}")
    return parts

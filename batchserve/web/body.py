"""From a request, in whatever form it comes, to the payloads that a task decodes."""

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http import HttpProcessingError

from batchserve.decoding import CodecPool
from batchserve.errors import BadRequest, InvalidInput, TooLarge, UnsupportedMedia
from batchserve.tasks.base import Task
from batchserve.web.asking import Question
from batchserve.web.formats import Format, formats_for, named, names_of
from batchserve.web.keys import CONFIG, FETCHER
from batchserve.web.schema import ByUrl, PredictRequest

MULTIPART = "multipart/form-data"
PART = "file"
# The query parameter that names an input by its address.
URL = "url"
# What aiohttp undoes as it reads.
ENCODINGS = ("identity", "gzip", "deflate")
# A larger body takes longer to parse than a hand-over to a thread.
INLINE_PARSE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Body(Question):
    """A request in our own protocol.

    Attributes:
        is_list: whether the client sent a list, and gets one.
        elsewhere: the addresses of those payloads that are still to be fetched, by their index.
    """

    is_list: bool
    elsewhere: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form, its Content-Transfer-Encoding undone."""

    data: bytes
    content_type: str


async def read_inputs(
    request: web.Request, schema: type[PredictRequest], task: Task, pool: CodecPool
) -> Body:
    """Read and parse a request, and fetch those inputs that it names by their address.

    Raises:
        RequestError: of `read_body` and `fetch_inputs`.
    """
    return await fetch_inputs(request, await read_body(request, schema, task, pool), task)


async def read_body(
    request: web.Request, schema: type[PredictRequest], task: Task, pool: CodecPool
) -> Body:
    """Read and parse a request.

    Args:
        request: of a GET, the query names the inputs.
        schema: the form of what comes as JSON.
        task: of the model that is asked.
        pool: for parsing what is large.

    Raises:
        BadRequest: it is not what its content type says, or a field is missing or of the wrong
            type.
        TooLarge: over `max_body_mb`.
        UnsupportedMedia: a content type or encoding that neither we nor the task read.
    """
    if request.method == hdrs.METH_GET:
        return _read_query(request, task)
    check_head(request)
    kind = request.content_type
    form = named(kind, formats_for(task))
    if form is not None:
        return await _read_format(request, form, schema, task, pool)
    if task.media_types and kind == MULTIPART:
        return await _read_multipart(request)
    if any(fnmatch(kind, accepted) for accepted in task.media_types):
        data = await request.read()
        if not data:
            raise BadRequest("the body is empty")
        return Body(payloads=[data], is_list=False, size=len(data))
    raise UnsupportedMedia(
        f"Content-Type {kind} is not read here; state what you send in a header, "
        f"Content-Type: one of {', '.join(media_types_of(task))}"
    )


async def fetch_inputs(request: web.Request, body: Body, task: Task) -> Body:
    """Return a body with the files in it that it names by their address.

    Raises:
        RequestError: of `Fetcher.fetch_all`.
    """
    if not body.elsewhere:
        return body
    payloads = list(body.payloads)
    files = await request.app[FETCHER].fetch_all(body.elsewhere, task.media_types, of=len(payloads))
    for index, file in files.items():
        payloads[index] = file
    size = body.size + sum(map(len, files.values()))
    return replace(body, payloads=payloads, size=size, elsewhere={})


def _read_query(request: web.Request, task: Task) -> Body:
    addresses = request.query.getall(URL, [])
    if not task.media_types:
        raise BadRequest("this model takes no files, of which GET could name one; POST its input")
    if not addresses:
        raise BadRequest(f"the query names no input; write ?{URL}=, or POST one")
    return Body(
        payloads=addresses,
        size=0,
        is_list=len(addresses) > 1,
        elsewhere=dict(enumerate(addresses)),
    )


def media_types_of(task: Task) -> Sequence[str]:
    """Return what a body of this task's may be."""
    files = (MULTIPART, *task.media_types) if task.media_types else ()
    return (*names_of(formats_for(task)), *files)


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


async def _read_format(
    request: web.Request,
    form: Format,
    schema: type[PredictRequest],
    task: Task,
    pool: CodecPool,
) -> Body:
    data = await request.read()
    if len(data) < INLINE_PARSE_BYTES:
        return parse_body(form, data, schema, task)
    return await pool.decode(parse_body, form, data, schema, task)


def parse_body(form: Format, data: bytes, schema: type[PredictRequest], task: Task) -> Body:
    """Return what a body holds.

    Raises:
        RequestError: of `Format.parse`.
    """
    payloads, is_list = form.parse(data, schema, task)
    elsewhere: dict[int, str] = {}
    # Most lists name no address, and are not gone through one by one.
    if task.media_types and ByUrl in set(map(type, payloads)):
        elsewhere = {i: one.url for i, one in enumerate(payloads) if isinstance(one, ByUrl)}
    return Body(payloads=payloads, is_list=is_list, size=len(data), elsewhere=elsewhere)


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

"""The head of a request, if it is that of a plain prediction."""

import re
from dataclasses import dataclass
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from batchserve.config import ServerConfig
from batchserve.errors import RequestError
from batchserve.web.accept import preferred
from batchserve.web.access_log import behind_proxy
from batchserve.web.answering import stated_id
from batchserve.web.authority import check_key
from batchserve.web.formats import FORMATS, JSON, names_of
from batchserve.web.terms import Stated, stated_in

# `ab` and, before 1.30, nginx as a proxy speak the first.
VERSIONS = (HttpVersion10, HttpVersion11)
PATH = re.compile(r"/(?:models/([A-Za-z0-9._-]+)/(?:versions/([A-Za-z0-9._-]+)/)?)?predict")
# Of a body that is there.
LENGTH = re.compile(r"[1-9][0-9]{0,8}")
# What asks for more than an answer.
UNUSUAL = (
    hdrs.TRANSFER_ENCODING,
    hdrs.CONTENT_ENCODING,
    hdrs.EXPECT,
    hdrs.UPGRADE,
)
ANSWERS = names_of(FORMATS)


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's head says.

    Attributes:
        name: of the model; None: the first.
        version: None: the current one.
        size: bytes of the body.
        stated: of time and priority.
        request_id: that the client gave it; None: none that could be repeated.
        http: the version that the client speaks.
        keep_alive: whether the client will go on using the connection.
        forwarded_for: whom a proxy says that it asks for.
    """

    path: str
    name: str | None
    version: str | None
    size: int
    stated: Stated
    request_id: str | None
    http: str
    keep_alive: bool
    forwarded_for: str


def read_head(data: bytes, server: ServerConfig) -> Head | None:
    """Return what a head says; None: it is not one that the fast path serves, or a wrong one.

    Args:
        data: up to and with the empty line.
        server: whose keys there may be.
    """
    message = _parse(data)
    if message is None or message.method != hdrs.METH_POST or message.version not in VERSIONS:
        return None
    path, headers = PATH.fullmatch(message.path), message.headers
    length = headers.getall(hdrs.CONTENT_LENGTH, ())
    if path is None or len(length) != 1 or not LENGTH.fullmatch(length[0]):
        return None
    if any(name in headers for name in UNUSUAL) or not _is_json(message):
        return None
    try:
        check_key(headers, server)
        stated = stated_in(headers)
    except RequestError:
        return None
    return Head(
        message.path,
        path[1],
        path[2],
        int(length[0]),
        stated,
        stated_id(headers),
        f"{message.version.major}.{message.version.minor}",
        not message.should_close,
        behind_proxy(headers),
    )


def _parse(data: bytes) -> RawRequestMessage | None:
    # It needs neither for a head.
    loop: Any = None
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    try:
        messages, _, _ = parser.feed_data(data)
    except HttpProcessingError:
        return None
    return messages[0][0] if len(messages) == 1 else None


def _is_json(message: RawRequestMessage) -> bool:
    headers = message.headers
    kind = headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    accepted = ",".join(headers.getall(hdrs.ACCEPT, ()))
    return kind == JSON and preferred(accepted, ANSWERS) == JSON

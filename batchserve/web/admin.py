"""Administration in JSON: load and unload versions, make one current, roll back, try one."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from batchserve.administration import TIMEOUT_S, Administration
from batchserve.agreement import Outcome
from batchserve.config import CandidateConfig
from batchserve.errors import BadRequest, TooLarge, UnsupportedMedia
from batchserve.mistakes import explained
from batchserve.repository.wanted import Candidate
from batchserve.web.authority import administration
from batchserve.web.formats import JSON
from batchserve.web.keys import ADMINISTRATION, REQUEST_ID

ACCEPTED = 202
# All workers read it again and again.
MOST_BYTES = 2**20
CURRENT, TIMEOUT = "current", "timeout"


class CandidateBody(CandidateConfig):
    """Which version is tried, and how."""

    version: str


@administration
async def load_version(request: web.Request) -> web.Response:
    """Load a version in all workers; the body is its section as in the config file, or empty."""
    query = _query(request, CURRENT, TIMEOUT)
    section = await _read_object(request)
    return await _change(
        request,
        partial(Administration.load, make_current=_flag(query.get(CURRENT, "false"))),
        request.match_info["version"],
        section,
        timeout_s=_timeout_s(query),
    )


@administration
async def unload_version(request: web.Request) -> web.Response:
    """Unload a version in all workers, once it has answered those who ask it."""
    return await _change(request, Administration.unload, request.match_info["version"])


@administration
async def set_current(request: web.Request) -> web.Response:
    """Have the version that the body names answer where none is named."""
    body = await _read_object(request) or {}
    version = body.get("version")
    if not isinstance(version, str) or len(body) != 1:
        raise BadRequest('the body must be {"version": "2"}')
    return await _change(request, Administration.make_current, version)


@administration
async def roll_back(request: web.Request) -> web.Response:
    """Make the version current that was so before."""
    return await _change(request, Administration.roll_back)


@administration
async def set_candidate(request: web.Request) -> web.Response:
    """Try a version beside the current one."""
    body = await _read_object(request)
    try:
        stated = CandidateBody.model_validate(body or {})
    except ValidationError as error:
        raise BadRequest(
            f'{explained(error)}; the body is like {{"version": "2", "share": 0.1}} or '
            f'{{"version": "2", "shadow": true}}'
        ) from None
    candidate = Candidate(**stated.model_dump())
    return await _change(request, Administration.set_candidate, candidate)


@administration
async def clear_candidate(request: web.Request) -> web.Response:
    """Have the current version answer all requests that name none."""
    return await _change(request, Administration.clear_candidate)


@administration
async def promote(request: web.Request) -> web.Response:
    """Make the candidate current."""
    return await _change(request, Administration.promote)


def who(request: web.Request) -> str:
    """Return who asks, for the log."""
    return f"{request.remote or 'a Unix socket'} (request {request[REQUEST_ID]})"


async def _change(
    request: web.Request,
    change: Callable[..., Awaitable[Outcome]],
    *arguments: Any,
    timeout_s: float | None = None,
) -> web.Response:
    """Have one of the methods of `Administration` change the model that the path names."""
    if timeout_s is None:
        timeout_s = _timeout_s(_query(request, TIMEOUT))
    admin, name = request.app[ADMINISTRATION], request.match_info["name"]
    outcome = await change(admin, name, *arguments, by=who(request), timeout_s=timeout_s)
    content = {
        "done": outcome.done,
        "model": outcome.name,
        "version": outcome.version,
        "current": outcome.current,
        "upcoming": outcome.upcoming,
        "candidate": outcome.candidate,
        "workers": outcome.workers,
    }
    return web.json_response(content, status=200 if outcome.done else ACCEPTED)


async def _read_object(request: web.Request) -> dict[str, Any] | None:
    """Return the body's JSON object; None: there is no body."""
    data = await request.read()
    if len(data) > MOST_BYTES:
        raise TooLarge(f"the body is over {MOST_BYTES} bytes; put labels into a file")
    if not data:
        return None
    if request.content_type != JSON:
        raise UnsupportedMedia(
            f"Content-Type {request.content_type} is not read here; send {JSON}, and say so"
        )
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, not {type(body).__name__}")
    return body


def _query(request: web.Request, *known: str) -> dict[str, str]:
    for name in request.query:
        if name not in known:
            raise BadRequest(f"query parameter {name}: unknown; known are: {', '.join(known)}")
    return dict(request.query)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise BadRequest(f"query parameter {CURRENT}: {text!r} is neither true nor false")
    return text == "true"


def _timeout_s(query: dict[str, str]) -> float:
    text = query.get(TIMEOUT, str(TIMEOUT_S))
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = -1
    if not 0 <= timeout_s <= TIMEOUT_S:
        raise BadRequest(
            f"query parameter {TIMEOUT}: {text!r} is not a number of seconds from 0 to "
            f"{TIMEOUT_S:g}"
        )
    return timeout_s

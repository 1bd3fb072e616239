"""Around every handler: a request id, errors as JSON, and counting."""

import logging
from http import HTTPStatus
from time import perf_counter

from aiohttp import web
from aiohttp.typedefs import Handler

from batchserve.errors import (
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RequestError,
)
from batchserve.web.answering import Counting, error_body, error_headers, new_id, stated_id
from batchserve.web.body import body_too_large
from batchserve.web.keys import (
    ANSWER,
    CODE,
    METRICS,
    MODEL,
    MODEL_STATS,
    REQUEST_ID,
    SECONDS,
    TRAFFIC,
)

logger = logging.getLogger(__name__)


@web.middleware
async def see_off(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count what is in progress; have clients use another connection if this worker says so."""
    traffic = request.app[TRAFFIC]
    with traffic:
        response = await handler(request)
        if traffic.sees_off(request.protocol):
            response.force_close()
        return response


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every answer its request id, and every error its JSON."""
    started_s = perf_counter()
    request_id = stated_id(request.headers) or new_id()
    request[REQUEST_ID] = request_id
    try:
        response = await handler(request)
    except RequestError as error:
        response = _answer_error(request, error)
    except web.HTTPException as error:
        response = _answer_error(request, _as_ours(request, error))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except web.RequestPayloadError as error:
        response = _answer_error(request, BadRequest(f"the body cannot be read: {error}"))
        # Nor can what follows it on this connection.
        response.force_close()
    except Exception:
        logger.exception("request %s: %s %s failed", request_id, request.method, request.path)
        response = _answer_error(
            request, InternalError(f"the server failed; its log has request {request_id}")
        )
    response.headers["X-Request-Id"] = request_id
    request[SECONDS] = seconds = perf_counter() - started_s
    if (model := request.get(MODEL)) is not None:
        _counting(request).answer(model, response.status, seconds, request.get(ANSWER))
    return response


def _answer_error(request: web.Request, error: RequestError) -> web.StreamResponse:
    request[CODE] = error.code
    if (model := request.get(MODEL)) is not None:
        _counting(request).refusal(model, error)
    return web.Response(
        status=error.status,
        body=error_body(error),
        headers=error_headers(error),
        content_type="application/json",
    )


def _counting(request: web.Request) -> Counting:
    return Counting(request.app[METRICS], request.app[MODEL_STATS])


def _as_ours(request: web.Request, error: web.HTTPException) -> RequestError:
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return NotFound(f"there is no path {request.path}; /docs lists those there are")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = error.headers.get("Allow", "")
            return MethodNotAllowed(f"{request.path} takes {allowed}, not {request.method}")
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return body_too_large(request)
        case status if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return BadRequest(error.reason)
    return InternalError(error.reason)

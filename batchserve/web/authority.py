"""Who may ask for what: API keys for predicting, a token for administration, an address for it."""

import hmac
import os
from collections.abc import Iterable, Mapping
from functools import wraps
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import SecretStr

from batchserve.config import ServerConfig
from batchserve.errors import NotFound, Unauthorized
from batchserve.web.keys import CONFIG

# Probes and Prometheus have no key.
EXEMPT = frozenset(
    {
        *("/livez", "/readyz", "/healthz", "/ping", "/metrics"),
        *("/v2/health/live", "/v2/health/ready"),
    }
)
API_KEY = "X-API-Key"


def administration(handler: Handler) -> Handler:
    """Have a handler serve those only who show `admin_token`, on `admin_bind` if there is one."""

    @wraps(handler)
    async def guarded(request: web.Request) -> web.StreamResponse:
        _check_administration(request)
        return await handler(request)

    guarded.administration = True  # type: ignore[attr-defined]
    return guarded


def is_administration(handler: object) -> bool:
    """Whether a handler was given to `administration`."""
    return getattr(handler, "administration", False)


def without_key(handler: Handler) -> Handler:
    """Have a handler serve everybody, also where there are keys: it tells nothing of this server.

    A page must be there before a key can be written into it.
    """
    handler.without_key = True  # type: ignore[attr-defined]
    return handler


def _is_without_key(handler: object) -> bool:
    return getattr(handler, "without_key", False)


@web.middleware
async def ask_for_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve those only who show one of `api_keys`, or `admin_token`, if there are keys."""
    if (
        request.path not in EXEMPT
        and not _is_without_key(request.match_info.handler)
        and not is_administration(request.match_info.handler)
    ):
        check_key(request.headers, request.app[CONFIG].server)
    return await handler(request)


def check_key(headers: Mapping[str, str], server: ServerConfig) -> None:
    """Raise if there are keys, and a request shows none of them.

    Raises:
        Unauthorized: with how to show one.
    """
    if server.api_keys is None:
        return
    accepted = [*server.api_keys, *([server.admin_token] if server.admin_token else [])]
    shown = headers.get(API_KEY) or _bearer(headers)
    if not _is_one_of(shown, accepted):
        raise Unauthorized(
            f"{'a wrong key' if shown else 'no key'}; send one of server.api_keys in a header, "
            f"Authorization: Bearer KEY, or {API_KEY}: KEY"
        )


def _check_administration(request: web.Request) -> None:
    server = request.app[CONFIG].server
    elsewhere = server.admin_bind is not None and not _came_to(request, server.admin_bind)
    if server.admin_token is None or elsewhere:
        raise NotFound(f"there is no path {request.path}; /docs lists those there are")
    shown = _bearer(request.headers)
    if not _is_one_of(shown, [server.admin_token]):
        raise Unauthorized(
            f"{'a wrong token' if shown else 'no token'}; send server.admin_token in a header, "
            f"Authorization: Bearer TOKEN"
        )


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, shown = headers.get("Authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else ""


def _is_one_of(shown: str, accepted: Iterable[SecretStr]) -> bool:
    """Compare with all, each in a time that does not tell how much of it is right."""
    # aiohttp reads headers as UTF-8, with what is none as surrogates.
    given = shown.encode("utf-8", "surrogateescape")
    matches = [
        hmac.compare_digest(given, secret.get_secret_value().encode()) for secret in accepted
    ]
    return any(matches)


def _came_to(request: web.Request, bind: str) -> bool:
    """Whether a request came in at an address of the config, by its port or its path."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    if bind.startswith("unix:"):
        path = Path(bind.removeprefix("unix:")).absolute()
        return isinstance(name, str | bytes) and Path(os.fsdecode(name)).absolute() == path
    return isinstance(name, tuple) and name[1] == int(bind.rpartition(":")[2])

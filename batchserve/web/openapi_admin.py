"""The part of /openapi.json that is about administration."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from batchserve.administration import TIMEOUT_S
from batchserve.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    RequestError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from batchserve.web.admin import CURRENT, TIMEOUT, CandidateBody
from batchserve.web.formats import JSON
from batchserve.web.v2.schema import LoadParameters

SCHEME = "admin_token"
SECURITY_SCHEMES = {
    SCHEME: {"type": "http", "scheme": "bearer", "description": "server.admin_token"},
}
ERRORS: dict[type[RequestError], str] = {
    BadRequest: "Not JSON, or not of this form.",
    Unauthorized: "No token, or a wrong one.",
    Forbidden: "The config file does not allow it; the message says how it would.",
    NotFound: "No such model or version.",
    Conflict: "It cannot be done now; the message says why.",
    TooLarge: "The body is over 1 MB.",
    UnsupportedMedia: "A content type that is not read.",
    InvalidInput: "A key or a value is wrong, or the version could not be loaded.",
    Unavailable: "The changes cannot be kept now.",
}
NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}
TIMEOUT_PARAMETER = {
    "name": TIMEOUT,
    "in": "query",
    "description": "Seconds to wait until all workers agree; after that, 202.",
    "schema": {"type": "number", "minimum": 0, "maximum": TIMEOUT_S, "default": TIMEOUT_S},
}
CURRENT_PARAMETER = {
    "name": CURRENT,
    "in": "query",
    "description": "Make it current as soon as every worker has it ready.",
    "schema": {"type": "boolean", "default": False},
}
SECTION = {
    "type": "object",
    "description": "As in the config file, without name and version. No body: as it was loaded "
    "last, or as the config file has it.",
}
POINTER = {
    "type": "object",
    "required": ["version"],
    "properties": {"version": NAME},
    "additionalProperties": False,
}
CANDIDATE = {**CandidateBody.model_json_schema(), "required": ["version"]}
CANDIDATE["anyOf"] = [{"required": ["share"]}, {"required": ["shadow"]}]
CANDIDATE["properties"]["version"] = NAME
LOADING = {
    "type": "object",
    "properties": {"parameters": LoadParameters.model_json_schema()},
}
OPTIONAL = (SECTION, LOADING)
REGISTER = [
    {"name": name, "in": "query", "required": name == "url", "schema": {"type": kind}}
    for name, kind in (
        *(("url", "string"), ("model_name", "string"), ("version", "string")),
        *(("batch_size", "integer"), ("max_batch_delay", "integer")),
    )
]
OUTCOME = {
    "type": "object",
    "required": ["done", "model", "version", "current", "upcoming", "candidate", "workers"],
    "properties": {
        "done": {"type": "boolean", "description": "All workers agree."},
        "model": {"type": "string"},
        "version": {"type": ["string", "null"]},
        "current": {"type": ["string", "null"]},
        "upcoming": {"type": ["string", "null"]},
        "candidate": {"type": ["object", "null"], "description": "Its version, share and shadow."},
        "workers": {"type": "array", "items": {"type": "object"}},
    },
}


class Operation(NamedTuple):
    """What an operator can ask for."""

    method: str
    path: str
    summary: str
    body: dict[str, Any] | None = None
    parameters: Sequence[dict[str, Any]] = ()


OURS = (
    Operation(
        "put",
        "/admin/models/{name}/versions/{version}",
        "Load a version in all workers, beside those that serve.",
        SECTION,
        [CURRENT_PARAMETER],
    ),
    Operation(
        "delete",
        "/admin/models/{name}/versions/{version}",
        "Unload a version, once it has answered those who ask it.",
    ),
    Operation(
        "put",
        "/admin/models/{name}/current",
        "Have a version answer where none is named.",
        POINTER,
    ),
    Operation(
        "post",
        "/admin/models/{name}/rollback",
        "Make the version current that was so before.",
    ),
    Operation(
        "put",
        "/admin/models/{name}/candidate",
        "Try a version beside the current one.",
        CANDIDATE,
    ),
    Operation(
        "delete",
        "/admin/models/{name}/candidate",
        "Have the current version answer all that name none.",
    ),
    Operation("post", "/admin/models/{name}/promote", "Make the candidate current."),
)
TRITONS = (
    Operation(
        "post",
        "/v2/repository/models/{name}/load",
        "Triton's: load, or load again.",
        LOADING,
    ),
    Operation(
        "post",
        "/v2/repository/models/{name}/unload",
        "Triton's: unload, with all versions.",
        LOADING,
    ),
)
REFUSED = "Always refused, with what is to be done: workers are not a model's."
UNLOADED = "TorchServe's: unload."
TORCHSERVES = (
    Operation(
        "post", "/models", "TorchServe's: load a file of the model folder.", parameters=REGISTER
    ),
    Operation("put", "/models/{name}", REFUSED),
    Operation("put", "/models/{name}/{version}", REFUSED),
    Operation("delete", "/models/{name}", UNLOADED),
    Operation("delete", "/models/{name}/{version}", UNLOADED),
    Operation(
        "put",
        "/models/{name}/{version}/set-default",
        "TorchServe's: have a version answer where none is named.",
    ),
)


def administration_paths(error: dict[str, Any]) -> dict[str, Any]:
    """Return the paths of administration.

    Args:
        error: the schema of every answer to what went wrong.
    """
    errors = {
        str(kind.status): {"description": text, "content": {JSON: {"schema": error}}}
        for kind, text in ERRORS.items()
    }
    described = [
        *((one, _described(one, OUTCOME, errors, [TIMEOUT_PARAMETER])) for one in OURS),
        *((one, _described(one, {"type": "object"}, errors)) for one in (*TRITONS, *TORCHSERVES)),
    ]
    paths: dict[str, Any] = {}
    for one, operation in described:
        path = paths.setdefault(one.path, {"parameters": _path_parameters(one.path)})
        path[one.method] = operation
    return paths


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": NAME} for name in names]


def _described(
    one: Operation,
    answer: dict[str, Any],
    errors: dict[str, Any],
    parameters: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    outcome = {"content": {JSON: {"schema": answer}}}
    described: dict[str, Any] = {
        "summary": one.summary,
        "tags": ["administer"],
        "security": [{SCHEME: []}],
        "parameters": [*one.parameters, *parameters],
        "responses": {
            "200": {"description": "Done in all workers.", **outcome},
            "202": {"description": "It goes on.", **outcome},
            **errors,
        },
    }
    if one.body is not None:
        content = {JSON: {"schema": one.body}}
        described["requestBody"] = {"required": one.body not in OPTIONAL, "content": content}
    return described

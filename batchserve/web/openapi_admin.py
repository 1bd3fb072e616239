"""The part of /openapi.json that is about administration."""

from typing import Any

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


def administration_paths(error: dict[str, Any]) -> dict[str, Any]:
    """Return the paths of administration.

    Args:
        error: the schema of every answer to what went wrong.
    """

    def operation(
        summary: str,
        *parameters: dict[str, Any],
        body: dict[str, Any] | None = None,
        answer: dict[str, Any] = OUTCOME,
    ) -> dict[str, Any]:
        outcome = {"content": {JSON: {"schema": answer}}}
        errors = {
            str(kind.status): {"description": text, "content": {JSON: {"schema": error}}}
            for kind, text in ERRORS.items()
        }
        described: dict[str, Any] = {
            "summary": summary,
            "tags": ["administer"],
            "security": [{SCHEME: []}],
            "parameters": [*parameters, *([TIMEOUT_PARAMETER] if answer is OUTCOME else [])],
            "responses": {
                "200": {"description": "Done in all workers.", **outcome},
                "202": {"description": "It goes on.", **outcome},
                **errors,
            },
        }
        if body is not None:
            content = {JSON: {"schema": body}}
            required = body not in (SECTION, LOADING)
            described["requestBody"] = {"required": required, "content": content}
        return described

    def path(*names: str) -> dict[str, Any]:
        parameters = [{"name": n, "in": "path", "required": True, "schema": NAME} for n in names]
        return {"parameters": parameters}

    def other(summary: str, *parameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return operation(summary, *parameters, answer={"type": "object"}, **changes)

    scale = other("Always refused, with what is to be done: workers are not a model's.")
    unregister = other("TorchServe's: unload.")
    return {
        "/v2/repository/models/{name}/load": {
            **path("name"),
            "post": other("Triton's: load, or load again.", body=LOADING),
        },
        "/v2/repository/models/{name}/unload": {
            **path("name"),
            "post": other("Triton's: unload, with all versions.", body=LOADING),
        },
        "/models": {"post": other("TorchServe's: load a file of the model folder.", *REGISTER)},
        "/models/{name}": {**path("name"), "put": scale, "delete": unregister},
        "/models/{name}/{version}": {
            **path("name", "version"),
            "put": scale,
            "delete": unregister,
        },
        "/models/{name}/{version}/set-default": {
            **path("name", "version"),
            "put": other("TorchServe's: have a version answer where none is named."),
        },
        "/admin/models/{name}/versions/{version}": {
            **path("name", "version"),
            "put": operation(
                "Load a version in all workers, beside those that serve.",
                CURRENT_PARAMETER,
                body=SECTION,
            ),
            "delete": operation("Unload a version, once it has answered those who ask it."),
        },
        "/admin/models/{name}/current": {
            **path("name"),
            "put": operation("Have a version answer where none is named.", body=POINTER),
        },
        "/admin/models/{name}/rollback": {
            **path("name"),
            "post": operation("Make the version current that was so before."),
        },
        "/admin/models/{name}/candidate": {
            **path("name"),
            "put": operation("Try a version beside the current one.", body=CANDIDATE),
            "delete": operation("Have the current version answer all that name none."),
        },
        "/admin/models/{name}/promote": {
            **path("name"),
            "post": operation("Make the candidate current."),
        },
    }

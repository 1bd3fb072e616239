"""/openapi.json: the HTTP interface, from the pydantic models that validate it."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic.json_schema import models_json_schema

from batchserve import __version__
from batchserve.batch import CloseReason, Priority
from batchserve.config import EndpointConfig
from batchserve.errors import (
    BadRequest,
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    NotFound,
    RequestError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from batchserve.repository import ModelRepository
from batchserve.web.authority import API_KEY, EXEMPT
from batchserve.web.dashboard import SINCE
from batchserve.web.debug import LAST, MOST_ASKED
from batchserve.web.formats import JSON
from batchserve.web.keys import ADMINISTRATION, CONFIG, REPOSITORY
from batchserve.web.openapi_admin import SECURITY_SCHEMES, administration_paths
from batchserve.web.openapi_predict import predict_paths, predict_schemas
from batchserve.web.openapi_protocols import PROTOCOL_MODELS, Schemas, protocol_paths
from batchserve.web.schema import ErrorBody
from batchserve.web.terms import PRIORITY, TIMEOUT

if TYPE_CHECKING:
    from pydantic import BaseModel

REFERENCE = "#/components/schemas/{model}"
ERRORS: dict[type[RequestError], str] = {
    BadRequest: "Not what the content type says, or a field missing or of the wrong type.",
    Unauthorized: "No key, or a wrong one, where the server asks for keys.",
    NotFound: "No such model or version.",
    TooLarge: "Body, image or number of inputs over the limit, which is named.",
    UnsupportedMedia: "A content type that is not read.",
    InvalidInput: "It parses, but is no valid input for this model.",
    ModelFailed: "The model failed on this input.",
    Unavailable: "Queue full, overloaded, draining or not ready; try again after Retry-After s.",
    DeadlineExceeded: "The deadline passed.",
}
HEADERS: list[dict[str, Any]] = [
    {
        "name": TIMEOUT,
        "in": "header",
        "description": "An answer within so many milliseconds, or 504.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": PRIORITY,
        "in": "header",
        "description": "Who passes whom in the queue; also as a number, 1 being the first.",
        "schema": {
            "type": "string",
            "enum": [priority.name.lower() for priority in Priority],
            "default": Priority.NORMAL.name.lower(),
        },
    },
]
LAST_PARAMETER: dict[str, Any] = {
    "name": LAST,
    "in": "query",
    "description": "So many batches; all that are kept otherwise.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_ASKED},
}
SINCE_PARAMETER: dict[str, Any] = {
    "name": SINCE,
    "in": "query",
    "description": "Those after this time, in seconds since 1970; all ten minutes otherwise.",
    "schema": {"type": "number"},
}
OF_A_BATCH: dict[str, Any] = {
    "X-Batch-Size": {"schema": {"type": "integer", "minimum": 1}},
    "X-Batch-Reason": {"schema": {"type": "string", "enum": list(CloseReason)}},
    "Server-Timing": {"schema": {"type": "string"}},
}


API_KEYS = {
    "api_key": {"type": "http", "scheme": "bearer", "description": "One of server.api_keys."},
    "x_api_key": {"type": "apiKey", "in": "header", "name": API_KEY},
}


async def openapi(request: web.Request) -> web.Response:
    app = request.app
    described = document(
        app[REPOSITORY], app[CONFIG].endpoints, administration=ADMINISTRATION in app
    )
    if app[CONFIG].server.api_keys is not None:
        described["components"].setdefault("securitySchemes", {}).update(API_KEYS)
        described["security"] = [{name: []} for name in API_KEYS]
    return web.json_response(described)


def document(
    repository: ModelRepository,
    endpoints: Sequence[EndpointConfig] = (),
    *,
    administration: bool = False,
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document for what is served now.

    Args:
        repository: what is served.
        endpoints: paths of the operator's own.
        administration: whether there is any.
    """
    versions = [version for version in repository.versions if version.loaded]
    models: dict[type[BaseModel], None] = dict.fromkeys([ErrorBody, *PROTOCOL_MODELS])
    for schema in predict_schemas(versions, endpoints):
        models |= {schema.request: None, schema.response: None}
    # pydantic tells apart what has the same name in two modules.
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REFERENCE
    )
    schemas = {model: references[model, "validation"] for model in models}
    responses = partial(_responses, schemas)
    paths = {
        **predict_paths(repository, versions, endpoints, schemas, responses, HEADERS),
        **protocol_paths(versions, schemas, responses, HEADERS),
        **_operations(schemas[ErrorBody], repository),
    }
    components: dict[str, Any] = {"schemas": definitions["$defs"]}
    if administration:
        for path, operations in administration_paths(schemas[ErrorBody]).items():
            paths[path] = {**operations, **paths.get(path, {})}
        components["securitySchemes"] = dict(SECURITY_SCHEMES)
    return {
        "openapi": "3.1.0",
        "info": {"title": "batchserve", "version": __version__},
        "paths": paths,
        "components": components,
    }


def _responses(
    schemas: Schemas,
    content: dict[str, Any],
    more_errors: Mapping[type[RequestError], str] = MappingProxyType({}),
    *,
    of_a_batch: bool = True,
) -> dict[str, Any]:
    """Return what a model may answer: with this content, or with an error."""
    answer = {
        "description": "The answer.",
        "headers": {
            "X-Request-Id": {"schema": {"type": "string"}},
            **(OF_A_BATCH if of_a_batch else {}),
        },
        "content": content,
    }
    errors = {
        str(error.status): {
            "description": text,
            "content": {JSON: {"schema": schemas[ErrorBody]}},
        }
        for error, text in {**ERRORS, **more_errors}.items()
    }
    return {"200": answer, **errors}


def _operations(error: dict[str, Any], repository: ModelRepository) -> dict[str, Any]:
    content = {JSON: {"schema": error}}

    def get(summary: str, kind: str = JSON, *, may_be_unready: bool = False) -> dict[str, Any]:
        responses: dict[str, Any] = {"200": {"description": summary, "content": {kind: {}}}}
        if may_be_unready:
            responses["503"] = {"description": "Not ready.", "content": content}
        return {"get": {"summary": summary, "tags": ["operate"], "responses": responses}}

    batches = get("The last batches of one worker, as a trace for Perfetto.")
    history = get("The last ten minutes of all workers, a point for each two seconds.")
    for asked, parameter in ((batches, LAST_PARAMETER), (history, SINCE_PARAMETER)):
        asked["get"]["parameters"] = [parameter]
        asked["get"]["responses"]["400"] = {"description": "Not a number.", "content": content}

    names = dict.fromkeys(version.name for version in repository.versions)
    paths = {
        "/models": get("Every model's versions, states and settings."),
        **{f"/models/{name}": get("One model's versions, and which is current.") for name in names},
        "/livez": get("Whether the process lives.", may_be_unready=True),
        "/readyz": get("Whether all that could be loaded would answer now.", may_be_unready=True),
        "/healthz": get("The same as /readyz.", may_be_unready=True),
        "/ping": get("The same as /readyz.", may_be_unready=True),
        "/metrics": get("Prometheus metrics of all workers.", "text/plain"),
        "/debug/batches": batches,
        "/dashboard/data": history,
    }
    for path in EXEMPT & paths.keys():
        paths[path]["get"]["security"] = []
    return paths

"""/openapi.json: the HTTP interface, from the pydantic models that validate it."""

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from batchserve import __version__
from batchserve.batch import CloseReason, Priority
from batchserve.config import EndpointConfig
from batchserve.errors import (
    BadRequest,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelFailed,
    NotAcceptable,
    NotFound,
    RequestError,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from batchserve.repository import ModelRepository, ModelVersion
from batchserve.tasks.base import Task
from batchserve.web.body import MULTIPART, PART, URL
from batchserve.web.debug import LAST, MOST_ASKED
from batchserve.web.formats import JSON, STRUCTURED, Format, formats_for
from batchserve.web.keys import CONFIG, REPOSITORY
from batchserve.web.schema import ErrorBody, PredictSchema, endpoint_schema_of, schema_of
from batchserve.web.terms import PRIORITY, TIMEOUT

Schemas = dict[type[BaseModel], dict[str, Any]]

REFERENCE = "#/components/schemas/{model}"
ERRORS: dict[type[RequestError], str] = {
    BadRequest: "Not what the content type says, or a field missing or of the wrong type.",
    Forbidden: "An address from which this server does not fetch.",
    NotFound: "No such model or version.",
    NotAcceptable: "No media type that Accept names can hold the answer.",
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
URL_PARAMETER: dict[str, Any] = {
    "name": URL,
    "in": "query",
    "required": True,
    "description": "The file's address; several are a list of inputs.",
    "schema": {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 1},
}
OF_A_BATCH: dict[str, Any] = {
    "X-Batch-Size": {"schema": {"type": "integer", "minimum": 1}},
    "X-Batch-Reason": {"schema": {"type": "string", "enum": list(CloseReason)}},
    "Server-Timing": {"schema": {"type": "string"}},
}
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


async def openapi(request: web.Request) -> web.Response:
    return web.json_response(document(request.app[REPOSITORY], request.app[CONFIG].endpoints))


def document(
    repository: ModelRepository, endpoints: Sequence[EndpointConfig] = ()
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document for what is served now."""
    versions = [version for version in repository.versions if version.loaded]
    asked = [
        (endpoint, version)
        for endpoint in endpoints
        if (version := _version_at(endpoint, versions)) is not None
    ]
    models: dict[type[BaseModel], None] = {ErrorBody: None}
    for schema in (
        *(schema_of(type(version.task)) for version in versions),
        *(endpoint_schema_of(type(version.task)) for _, version in asked),
    ):
        models |= {schema.request: None, schema.response: None}
    # pydantic tells apart what has the same name in two modules.
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REFERENCE
    )
    schemas = {model: references[model, "validation"] for model in models}

    paths: dict[str, Any] = {}
    for version in versions:
        predict = _predict(version, schemas)
        paths.setdefault("/predict", predict)
        paths.setdefault(f"/models/{version.name}/predict", predict)
        paths[f"/models/{version.name}/versions/{version.version}/predict"] = predict
    for endpoint, version in asked:
        paths[endpoint.path] = _endpoint(endpoint, version, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "batchserve", "version": __version__},
        "paths": paths | _operations(schemas[ErrorBody]),
        "components": {"schemas": definitions["$defs"]},
    }


def _version_at(endpoint: EndpointConfig, versions: Sequence[ModelVersion]) -> ModelVersion | None:
    return next(
        (
            version
            for version in versions
            if version.name == endpoint.model and endpoint.version in (None, version.version)
        ),
        None,
    )


def _predict(version: ModelVersion, schemas: Schemas) -> dict[str, Any]:
    task = version.task
    schema = schema_of(type(task))
    summary = f"Ask {version.name}, version {version.version}."
    post = _asking(summary, task, schemas, schema, formats_for(task), OF_A_BATCH)
    if not task.media_types:
        return {"post": post}
    get = {name: part for name, part in post.items() if name != "requestBody"}
    get["summary"] = f"Have {version.name}, version {version.version}, look at a file elsewhere."
    get["parameters"] = [URL_PARAMETER, *post["parameters"]]
    return {"get": get, "post": post}


def _endpoint(endpoint: EndpointConfig, version: ModelVersion, schemas: Schemas) -> dict[str, Any]:
    promise = "" if endpoint.slo_ms is None else f" within {endpoint.slo_ms:g} ms"
    summary = f"Ask {version.name}, and be answered{promise}."
    schema = endpoint_schema_of(type(version.task))
    # A default has not been in any batch.
    return {"post": _asking(summary, version.task, schemas, schema, STRUCTURED, {})}


def _asking(
    summary: str,
    task: Task,
    schemas: Schemas,
    schema: PredictSchema,
    formats: Sequence[Format],
    headers: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the description of a request to a model.

    Args:
        summary: a sentence.
        task: the model's.
        schemas: references to all that there are.
        schema: what is sent and answered.
        formats: in which it may be answered.
        headers: of every answer, beside its id.
    """
    query = task.Parameters.model_json_schema().get("properties", {})
    parameters = [
        {"name": name, "in": "query", "schema": described} for name, described in query.items()
    ]
    errors = {
        str(error.status): {
            "description": text,
            "content": {JSON: {"schema": schemas[ErrorBody]}},
        }
        for error, text in ERRORS.items()
    }
    answer = {
        "description": "The answer.",
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}, **headers},
        "content": _contents(formats, schemas[schema.response]),
    }
    return {
        "summary": summary,
        "tags": ["predict"],
        "parameters": [*parameters, *HEADERS],
        "requestBody": {"required": True, "content": _bodies(task, schemas[schema.request])},
        "responses": {"200": answer, **errors},
    }


def _bodies(task: Task, schema: dict[str, Any]) -> dict[str, Any]:
    content = _contents(formats_for(task), schema)
    if task.media_types:
        parts = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
        form = {"type": "object", "required": [PART], "properties": {PART: parts}}
        content |= {MULTIPART: {"schema": form}, **dict.fromkeys(task.media_types, BINARY)}
    return content


def _contents(formats: Sequence[Format], schema: dict[str, Any]) -> dict[str, Any]:
    return {
        form.media_types[0]: BINARY if form.arrays_only else {"schema": schema} for form in formats
    }


def _operations(error: dict[str, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": error}}

    def get(summary: str, kind: str = JSON, *, may_be_unready: bool = False) -> dict[str, Any]:
        responses: dict[str, Any] = {"200": {"description": summary, "content": {kind: {}}}}
        if may_be_unready:
            responses["503"] = {"description": "Not ready.", "content": content}
        return {"get": {"summary": summary, "tags": ["operate"], "responses": responses}}

    batches = get("The last batches of one worker, as a trace for Perfetto.")
    batches["get"]["parameters"] = [LAST_PARAMETER]
    batches["get"]["responses"]["400"] = {"description": "Not a number.", "content": content}

    return {
        "/models": get("Every model's versions, states and settings."),
        "/livez": get("Whether the process lives."),
        "/readyz": get("Whether every model would answer now.", may_be_unready=True),
        "/healthz": get("The same as /readyz.", may_be_unready=True),
        "/ping": get("The same as /readyz.", may_be_unready=True),
        "/metrics": get("Prometheus metrics of all workers.", "text/plain"),
        "/debug/batches": batches,
    }

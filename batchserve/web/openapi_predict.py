"""Predicting in /openapi.json: in our own protocol, and at the operator's endpoints."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from batchserve.config import EndpointConfig
from batchserve.errors import Forbidden, NotAcceptable, RequestError
from batchserve.repository import ModelRepository, ModelVersion
from batchserve.tasks.base import Task
from batchserve.web.body import MULTIPART, PART, URL
from batchserve.web.formats import STRUCTURED, Format, formats_for
from batchserve.web.openapi_protocols import RAW, Schemas
from batchserve.web.schema import PredictSchema, endpoint_schema_of, schema_of

ERRORS: dict[type[RequestError], str] = {
    Forbidden: "An address from which this server does not fetch.",
    NotAcceptable: "No media type that Accept names can hold the answer.",
}
URL_PARAMETER: dict[str, Any] = {
    "name": URL,
    "in": "query",
    "required": True,
    "description": "The file's address; several are a list of inputs.",
    "schema": {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 1},
}


def predict_schemas(
    versions: Sequence[ModelVersion], endpoints: Sequence[EndpointConfig]
) -> list[PredictSchema]:
    """Return the models of all requests and answers."""
    asked = [type(version.task) for _, version in _asked(versions, endpoints)]
    return [
        *(schema_of(type(version.task)) for version in versions),
        *map(endpoint_schema_of, asked),
    ]


def predict_paths(
    repository: ModelRepository,
    versions: Sequence[ModelVersion],
    endpoints: Sequence[EndpointConfig],
    schemas: Schemas,
    responses: Callable[..., dict[str, Any]],
    headers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the paths.

    Args:
        repository: knows which versions are current.
        versions: that can be named.
        endpoints: the operator's own paths.
        schemas: of `predict_schemas`.
        responses: makes a model's responses of the content of a good one, and of more errors.
        headers: that every request to a model may have.
    """
    paths: dict[str, Any] = {}
    for version in versions:
        predict = _predict(version, schemas, responses, headers)
        paths[f"/models/{version.name}/versions/{version.version}/predict"] = predict
        if version is repository.find(version.name):
            paths[f"/models/{version.name}/predict"] = predict
        if version is repository.find():
            paths["/predict"] = predict
    for endpoint, version in _asked(versions, endpoints):
        paths[endpoint.path] = _endpoint(endpoint, version, schemas, responses, headers)
    return paths


def _asked(
    versions: Sequence[ModelVersion], endpoints: Sequence[EndpointConfig]
) -> Iterator[tuple[EndpointConfig, ModelVersion]]:
    """Yield each endpoint with the version that it leads to, if that is there."""
    for endpoint in endpoints:
        for version in versions:
            if version.name == endpoint.model and endpoint.version in (None, version.version):
                yield endpoint, version
                break


def _predict(
    version: ModelVersion,
    schemas: Schemas,
    responses: Callable[..., dict[str, Any]],
    headers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    task, schema = version.task, schema_of(type(version.task))
    content = _contents(formats_for(task), schemas[schema.response])
    post = {
        **_question(task, schemas[schema.request], headers),
        "summary": f"Ask {version.name}, version {version.version}.",
        "responses": responses(content, ERRORS),
    }
    if not task.media_types:
        return {"post": post}
    get = {name: part for name, part in post.items() if name != "requestBody"}
    get["summary"] = f"Have {version.name}, version {version.version}, look at a file elsewhere."
    get["parameters"] = [URL_PARAMETER, *post["parameters"]]
    return {"get": get, "post": post}


def _endpoint(
    endpoint: EndpointConfig,
    version: ModelVersion,
    schemas: Schemas,
    responses: Callable[..., dict[str, Any]],
    headers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    promise = "" if endpoint.slo_ms is None else f" within {endpoint.slo_ms:g} ms"
    schema = endpoint_schema_of(type(version.task))
    content = _contents(STRUCTURED, schemas[schema.response])
    post = {
        **_question(version.task, schemas[schema.request], headers),
        "summary": f"Ask {version.name}, and be answered{promise}.",
        # A default has not been in any batch.
        "responses": responses(content, ERRORS, of_a_batch=False),
    }
    return {"post": post}


def _question(
    task: Task, schema: dict[str, Any], headers: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return what is sent to a model."""
    query = task.Parameters.model_json_schema().get("properties", {})
    parameters = [
        {"name": name, "in": "query", "schema": described} for name, described in query.items()
    ]
    content = _contents(formats_for(task), schema)
    if task.media_types:
        parts = {"type": "array", "items": RAW["schema"], "minItems": 1}
        form = {"type": "object", "required": [PART], "properties": {PART: parts}}
        content |= {MULTIPART: {"schema": form}, **dict.fromkeys(task.media_types, RAW)}
    return {
        "tags": ["predict"],
        "parameters": [*parameters, *headers],
        "requestBody": {"required": True, "content": content},
    }


def _contents(formats: Sequence[Format], schema: dict[str, Any]) -> dict[str, Any]:
    return {
        form.media_types[0]: RAW if form.arrays_only else {"schema": schema} for form in formats
    }

"""The protocols of others in /openapi.json: Open Inference, KServe's, TorchServe's."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from batchserve.repository import ModelVersion
from batchserve.web.body import MULTIPART
from batchserve.web.formats import JSON
from batchserve.web.instances import NAMES
from batchserve.web.kserve_v1 import V1Request, V1Response
from batchserve.web.schema import ErrorBody
from batchserve.web.v2.infer import BINARY
from batchserve.web.v2.request import HEADER_LENGTH
from batchserve.web.v2.schema import IndexRequest, InferRequest, InferResponse

Schemas = dict[type[BaseModel], dict[str, Any]]
Operation = dict[str, Any]

PROTOCOL_MODELS: tuple[type[BaseModel], ...] = (
    *(InferRequest, InferResponse, IndexRequest),
    *(V1Request, V1Response),
)
RAW: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
LENGTH: dict[str, Any] = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Bytes of JSON before binary data; 0: there is none, all is one tensor.",
    "schema": {"type": "integer", "minimum": 0},
}
V2, V1, TORCHSERVE = "Open Inference Protocol", "KServe v1", "TorchServe"
# Of one model, whose versions are its own.
GETS = {
    "": "A model's inputs and outputs.",
    "/config": "The same, as Triton configures it.",
    "/ready": "Whether it would answer now.",
    "/stats": "How often it was asked, and what that took.",
}


def protocol_paths(
    versions: Sequence[ModelVersion],
    schemas: Schemas,
    responses: Callable[[dict[str, Any]], dict[str, Any]],
    headers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the paths.

    Args:
        versions: that can be named.
        schemas: of `PROTOCOL_MODELS`, and of errors.
        responses: makes a model's responses of the content of a good one.
        headers: that every request to a model may have.
    """
    if not versions:
        return _server(schemas)
    name = _path_parameter("name", (version.name for version in versions))
    one = _path_parameter("version", (version.version for version in versions))
    infer = _infer(schemas, responses, headers)
    paths = _server(schemas)
    for place, parameters in (("", [name]), ("/versions/{version}", [name, one])):
        model = f"/v2/models/{{name}}{place}"
        paths[f"{model}/infer"] = {"post": infer, "parameters": parameters}
        for what, summary in GETS.items():
            get = _get(summary, V2, schemas, 404, 503)
            paths[f"{model}{what}"] = {"get": get, "parameters": parameters}
    paths["/v1/models/{name}"] = {
        "get": _get("Whether a model would answer now.", V1, schemas, 404, 503),
        "parameters": [name],
    }
    paths["/v1/models/{name}:predict"] = {
        "post": _v1_predict(schemas, responses, headers),
        "parameters": [name],
    }
    torchserve = _torchserve(responses, headers)
    for path, parameters in (("{name}", [name]), ("{name}/{version}", [name, one])):
        operations = {"post": torchserve, "put": torchserve}
        paths[f"/predictions/{path}"] = {**operations, "parameters": parameters}
    return paths


def _server(schemas: Schemas) -> dict[str, Any]:
    index = _get("All versions of all models, and their states.", V2, schemas, 400, 413, 415)
    index["requestBody"] = {"content": {JSON: {"schema": schemas[IndexRequest]}}}
    return {
        "/v2": {"get": _get("Who answers.", V2, schemas)},
        "/v2/health/live": {"get": _get("Whether the process lives.", V2, schemas, 503)},
        "/v2/health/ready": {"get": _get("The same as /readyz.", V2, schemas, 503)},
        "/v2/models/stats": {"get": _get("The statistics of all models.", V2, schemas)},
        "/v2/repository/index": {"post": index},
        "/v1/models": {"get": _get("The names of all models.", V1, schemas)},
    }


def _get(summary: str, tag: str, schemas: Schemas, *statuses: int) -> Operation:
    error = {"description": "As it says.", "content": {JSON: {"schema": schemas[ErrorBody]}}}
    good = {"200": {"description": summary, "content": {JSON: {}}}}
    bad = {str(status): error for status in statuses}
    return {"summary": summary, "tags": [tag], "responses": {**good, **bad}}


def _infer(
    schemas: Schemas,
    responses: Callable[[dict[str, Any]], dict[str, Any]],
    headers: Sequence[dict[str, Any]],
) -> Operation:
    return {
        "summary": "Tensors in, tensors out.",
        "tags": [V2],
        "parameters": [LENGTH, *headers],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": schemas[InferRequest]}, BINARY: RAW},
        },
        "responses": responses({JSON: {"schema": schemas[InferResponse]}, BINARY: RAW}),
    }


def _v1_predict(
    schemas: Schemas,
    responses: Callable[[dict[str, Any]], dict[str, Any]],
    headers: Sequence[dict[str, Any]],
) -> Operation:
    return {
        "summary": "Instances in, predictions out.",
        "tags": [V1],
        "parameters": [*headers],
        "requestBody": {"required": True, "content": {JSON: {"schema": schemas[V1Request]}}},
        "responses": responses({JSON: {"schema": schemas[V1Response]}}),
    }


def _torchserve(
    responses: Callable[[dict[str, Any]], dict[str, Any]], headers: Sequence[dict[str, Any]]
) -> Operation:
    file = {"type": "array", "items": RAW["schema"], "minItems": 1}
    form = {"type": "object", "required": [NAMES[0]], "properties": {NAMES[0]: file}}
    return {
        "summary": "A body in, the bare output out.",
        "tags": [TORCHSERVE],
        "parameters": [*headers],
        "requestBody": {
            "required": True,
            "content": {JSON: {}, MULTIPART: {"schema": form}, BINARY: RAW},
        },
        "responses": responses({JSON: {}, "text/plain": {}}),
    }


def _path_parameter(name: str, values: Iterable[str]) -> dict[str, Any]:
    known = {"type": "string", "enum": [*dict.fromkeys(values)]}
    return {"name": name, "in": "path", "required": True, "schema": known}

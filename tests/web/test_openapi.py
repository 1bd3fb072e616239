"""The OpenAPI document: valid, complete, and saying what the server does."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image
from pydantic import BaseModel, Field

from batchserve.config import Config
from batchserve.tasks.base import Parameters, Task
from batchserve.web.authority import is_administration
from batchserve.web.formats import MSGPACK, NPY
from batchserve.web.keys import REPOSITORY
from batchserve.web.routes import ROUTES
from tests.web.clients import Client

# One thread: the models are small, and the cores may be busy.
SERVER = {"torch_threads": 1}
IMAGE: dict[str, Any] = {
    "source": "tests.models:MeanColour",
    "task": "image-classification",
    "image": {"mean": [0, 0, 0], "std": [1, 1, 1], "resize": 8, "crop": 8},
    "device": "cpu",
}
NUMBERS: dict[str, Any] = {"source": "tests.models:Double", "device": "cpu"}
SEVERAL = Config.model_validate(
    {
        "server": SERVER,
        "models": [
            {"name": "colour", "version": "1", **IMAGE},
            {"name": "colour", "version": "2", **IMAGE},
            {"name": "numbers", "version": "1.0", **NUMBERS},
        ],
    }
)
VERSIONS = [("colour", "1"), ("colour", "2"), ("numbers", "1.0")]
PAGES = re.compile(r"/|/docs(/.*)?|/openapi\.json|/dashboard|/static/.*|/samples/.*")
JSON = "application/json"


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = picture()


async def fetch(client: Client) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    assert response.status == 200
    assert response.content_type == JSON
    document: dict[str, Any] = await response.json()
    return document


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    if isinstance(node, list):
        for child in node:
            yield from references(child)


def resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/"), reference
    node: Any = document
    for key in reference.removeprefix("#/").split("/"):
        assert key in node, f"{reference} leads nowhere"
        node = node[key]
    return node


def check_document(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    for reference in set(references(document)):
        assert isinstance(resolve(document, reference), dict)
    errors = [
        f"{list(error.absolute_path)}: {error.message}"
        for error in OpenAPIV31SpecValidator(document).iter_errors()
    ]
    assert errors == []


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator for a schema that may refer to the document's components."""
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator({**schema, "components": document["components"]})


def request_schema(document: dict[str, Any], path: str, kind: str = JSON) -> Any:
    return document["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]


def response_schema(document: dict[str, Any], path: str, status: int) -> Any:
    return document["paths"][path]["post"]["responses"][str(status)]["content"][JSON]["schema"]


# The document as a whole.


async def test_the_document_is_valid(serve):
    client = await serve(SEVERAL)
    check_document(await fetch(client))


async def test_the_document_is_valid_for_the_shipped_tensor_task_alone(serve):
    client = await serve(server=SERVER, **NUMBERS)
    check_document(await fetch(client))


async def test_the_document_is_valid_while_nothing_is_ready(serve):
    client = await serve(SEVERAL)
    client.app[REPOSITORY].drain()
    document = await fetch(client)
    check_document(document)
    assert "/readyz" in document["paths"]


async def test_it_names_the_software_and_its_version(serve):
    from batchserve import __version__  # noqa: PLC0415

    client = await serve(SEVERAL)
    document = await fetch(client)
    assert document["info"] == {"title": "batchserve", "version": __version__}


def administered(folder: Path) -> Config:
    server = {**SERVER, "admin_token": "x" * 16, "state": str(folder / "state.db")}
    return Config.model_validate({"server": server, "models": SEVERAL.model_dump()["models"]})


async def test_the_document_is_valid_with_administration_and_keys(serve, tmp_path):
    check_document(await fetch(await serve(administered(tmp_path))))
    client = await serve(server={**SERVER, "api_keys": ["k" * 16]}, **NUMBERS)
    assert (await client.get("/openapi.json")).status == 401
    response = await client.get("/openapi.json", headers={"X-API-Key": "k" * 16})
    document = await response.json()
    check_document(document)
    assert document["security"] == [{"api_key": []}, {"x_api_key": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in document["paths"]["/models"]["get"]


async def test_what_is_asked_without_a_version_is_the_current_one(serve):
    client = await serve(SEVERAL)
    client.app[REPOSITORY].make_current("colour", "2")
    paths = (await fetch(client))["paths"]
    assert paths["/predict"]["post"]["summary"] == "Ask colour, version 2."


async def test_every_route_is_described(serve, tmp_path):
    client = await serve(administered(tmp_path))
    paths = (await fetch(client))["paths"]
    routes = [route for route in ROUTES if isinstance(route, web.RouteDef)]
    described = set()
    for route in routes:
        if is_administration(route.handler):
            assert route.method.lower() in paths[route.path], route.path
            described.add(route.path)
            continue
        if PAGES.fullmatch(route.path):
            continue
        for name, version in VERSIONS:
            # One path for all models, or one for each.
            path = route.path
            if route.method.lower() not in paths.get(path, {}):
                path = path.format(name=name, version=version)
            # Of what takes no files, no address can name one.
            is_for_files = route.method == "GET" and "predict" in path
            assert route.method.lower() in paths[path] or (is_for_files and "numbers" in path), path
            described.add(path)
    assert described == set(paths)


async def test_every_path_that_is_described_is_there(serve):
    client = await serve(SEVERAL)
    for path, operations in (await fetch(client))["paths"].items():
        for method in operations.keys() - {"parameters"}:
            response = await client.request(method, path.format(name="colour", version="1"))
            assert response.status not in {404, 405}, f"{method} {path}"


async def test_predict_is_described_as_the_first_model(serve):
    client = await serve(SEVERAL)
    document = await fetch(client)
    first = request_schema(document, "/models/colour/versions/1/predict")
    assert request_schema(document, "/predict") == first
    assert request_schema(document, "/models/numbers/predict") != first


# Tasks of users.


class Total(BaseModel):
    """One number."""

    total: float


class Shout(BaseModel):
    """Another thing."""

    text: str


class Sum(Task):
    """Numbers to their sum."""

    Input: ClassVar[Any] = list[float]
    Output: ClassVar[Any] = Total

    def decode(self, payload: Any) -> torch.Tensor:
        return torch.tensor(payload)

    def encode(self, row: Any, parameters: Any) -> Any:
        return {"total": float(row.sum())}


class Precise(Parameters):
    digits: int = Field(2, ge=0)


class Elsewhere:
    """Stands for another module of the user's, with a task of the same name."""

    class Sum(Sum):
        Input: ClassVar[Any] = str
        Output: ClassVar[Any] = Shout
        Parameters: ClassVar[type[BaseModel]] = Precise


OTHER_SUM = Elsewhere.Sum


def task_of(name: str, task: str) -> dict[str, Any]:
    return {"name": name, "task": f"tests.web.test_openapi:{task}", **NUMBERS}


async def test_a_users_task_is_described_by_its_types(serve):
    client = await serve(
        Config.model_validate({"server": SERVER, "models": [task_of("sum", "Sum")]})
    )
    document = await fetch(client)
    check_document(document)
    request = validator(document, request_schema(document, "/predict"))
    assert request.is_valid({"input": [1, 2.5]})
    assert not request.is_valid({"input": "text"})
    response = validator(document, response_schema(document, "/predict", 200))
    body = await (await client.post("/predict", json={"input": [1, 2.5]})).json()
    assert body["output"] == {"total": 7.0}
    assert response.is_valid(body)
    assert not response.is_valid({**body, "output": {"total": "text"}})


async def test_two_tasks_of_one_name_are_told_apart(serve):
    models = [task_of("numbers", "Sum"), task_of("words", "OTHER_SUM")]
    client = await serve(Config.model_validate({"server": SERVER, "models": models}))
    document = await fetch(client)
    check_document(document)
    numbers = validator(document, request_schema(document, "/models/numbers/predict"))
    words = validator(document, request_schema(document, "/models/words/predict"))
    assert numbers.is_valid({"input": [1]})
    assert not numbers.is_valid({"input": "text"})
    assert words.is_valid({"input": "text"})
    assert not words.is_valid({"input": [1]})


# What it says of requests is what the server does.

NUMBER_BODIES: list[Any] = [
    {"input": [1, 2]},
    {"input": 3},
    {"input": [[1], [2]]},
    {"inputs": [[1]]},
    {"inputs": [1, 2, 3]},
    {},
    [],
    None,
    "text",
    {"inputs": []},
    {"inputs": None},
    {"inputs": 1},
    {"input": [1], "inputs": [[1]]},
    {"input": [1], "more": 1},
    {"instances": [[1]]},
]
IMAGE_BODIES: list[Any] = [
    {"input": PICTURE},
    {"input": f"data:image/png;base64,{PICTURE}"},
    {"inputs": [PICTURE]},
    {"inputs": [PICTURE, PICTURE]},
    {},
    [PICTURE],
    {"input": 1},
    {"input": None},
    {"input": [PICTURE]},
    {"inputs": PICTURE},
    {"inputs": []},
    {"inputs": [1]},
    {"inputs": [PICTURE, None]},
    {"input": PICTURE, "inputs": [PICTURE]},
    {"input": PICTURE, "top_k": 3},
]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *[("/models/numbers/predict", body) for body in NUMBER_BODIES],
        *[("/models/colour/predict", body) for body in IMAGE_BODIES],
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
async def test_its_schema_accepts_what_the_server_accepts(serve, path, body):
    client = await serve(SEVERAL)
    document = await fetch(client)
    headers = {"Content-Type": JSON}
    response = await client.post(path, data=json.dumps(body), headers=headers)
    assert response.status in {200, 400}
    schema = request_schema(document, path)
    assert validator(document, schema).is_valid(body) is (response.status == 200)


async def test_both_kinds_of_bodies_were_among_the_examples(serve):
    client = await serve(SEVERAL)
    document = await fetch(client)
    for path, bodies in (
        ("/models/numbers/predict", NUMBER_BODIES),
        ("/models/colour/predict", IMAGE_BODIES),
    ):
        found = {
            validator(document, request_schema(document, path)).is_valid(body) for body in bodies
        }
        assert found == {True, False}


async def test_the_content_types_are_those_that_are_read(serve):
    client = await serve(SEVERAL)
    paths = (await fetch(client))["paths"]
    numbers = paths["/models/numbers/predict"]["post"]["requestBody"]["content"]
    assert set(numbers) == {JSON, MSGPACK, NPY}
    colour = paths["/models/colour/predict"]["post"]["requestBody"]["content"]
    files = {"multipart/form-data", "image/*", "application/octet-stream"}
    assert set(colour) == {JSON, MSGPACK, *files}
    form = colour["multipart/form-data"]["schema"]
    assert form["required"] == list(form["properties"]) == ["file"]


def parameters(document: dict[str, Any], path: str, where: str) -> dict[str, Any]:
    found = document["paths"][path]["post"]["parameters"]
    return {entry["name"]: entry["schema"] for entry in found if entry["in"] == where}


async def test_the_query_parameters_are_those_that_are_read(serve):
    client = await serve(SEVERAL)
    document = await fetch(client)
    assert parameters(document, "/models/numbers/predict", "query") == {}
    (top_k,) = parameters(document, "/models/colour/predict", "query").values()
    schema = validator(document, top_k)
    for value, accepted in [(1, True), (99, True), (0, False), (-1, False), ("abc", False)]:
        response = await client.post(f"/predict?top_k={value}", json={"input": PICTURE})
        assert (response.status == 200) is schema.is_valid(value) is accepted


async def test_the_timeout_is_the_one_that_is_read(serve):
    client = await serve(SEVERAL)
    document = await fetch(client)
    path = "/models/numbers/predict"
    name = "X-Request-Timeout-Ms"
    schema = validator(document, parameters(document, path, "header")[name])
    for value, accepted in [(60_000, True), (59_999.5, True), (0, False), (-1, False)]:
        response = await client.post(path, json={"input": [1]}, headers={name: str(value)})
        assert (response.status == 200) is schema.is_valid(value) is accepted


async def test_the_priorities_are_those_that_are_read(serve):
    client = await serve(SEVERAL)
    document = await fetch(client)
    path = "/models/numbers/predict"
    described = parameters(document, path, "header")["X-Priority"]
    schema = validator(document, described)
    for value in [*described["enum"], described["default"], "urgent", ""]:
        response = await client.post(path, json={"input": [1]}, headers={"X-Priority": value})
        assert (response.status == 200) is schema.is_valid(value), value


async def test_an_address_is_described_as_what_may_stand_for_a_file(serve):
    client = await serve(SEVERAL)
    document = await fetch(client)
    schema = validator(document, request_schema(document, "/models/colour/predict"))
    for url, accepted in [({"url": "https://a.org/b"}, True), ({"url": 1}, False), ({}, False)]:
        assert schema.is_valid({"input": url}) is accepted
        response = await client.post("/predict", json={"input": url})
        assert response.status == (403 if accepted else 400)
    get = document["paths"]["/models/colour/predict"]["get"]
    assert {entry["name"] for entry in get["parameters"] if entry["in"] == "query"} == {
        "url",
        "top_k",
    }
    assert "requestBody" not in get


async def test_an_endpoint_is_described(serve):
    models = [{"name": "numbers", **NUMBERS}, task_of("sum", "Sum")]
    endpoints = [
        {"path": "/double/predict", "model": "numbers", "slo_ms": 20_000, "default_output": 0},
        {"path": "/sum", "model": "sum"},
    ]
    described = {"server": SERVER, "models": models, "endpoints": endpoints}
    client = await serve(Config.model_validate(described))
    document = await fetch(client)
    check_document(document)
    assert "20000 ms" in document["paths"]["/double/predict"]["post"]["summary"]
    for path in ("/double/predict", "/sum"):
        schema = validator(document, response_schema(document, path, 200))
        for body in ({"input": [1]}, {"input_batch": [[1], [2]]}):
            answer = await (await client.post(path, json=body)).json()
            assert list(schema.iter_errors(answer)) == []
        assert not schema.is_valid({"output": 1})
    client.app[REPOSITORY].versions[0].drain()
    default = await (await client.post("/double/predict", json={"input": [1]})).json()
    assert default["default"] is True
    schema = validator(document, response_schema(document, "/double/predict", 200))
    assert list(schema.iter_errors(default)) == []


# What it says of answers is what the server does.


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"input": PICTURE}),
        ("/models/colour/versions/2/predict", {"inputs": [PICTURE, PICTURE]}),
        ("/models/numbers/predict", {"input": [1, 2]}),
        ("/models/numbers/versions/1.0/predict", {"inputs": [[1], [2]]}),
    ],
)
async def test_answers_are_as_described(serve, path, body):
    client = await serve(SEVERAL)
    document = await fetch(client)
    response = await client.post(path, json=body)
    answer = await response.json()
    assert response.status == 200
    schema = validator(document, response_schema(document, path, 200))
    assert list(schema.iter_errors(answer)) == []
    assert not schema.is_valid({})
    headers = document["paths"][path]["post"]["responses"]["200"]["headers"]
    assert headers
    assert [name for name in headers if name not in response.headers] == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"json": {}}, 400),
        ({"data": b"text", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"json": {"input": "text"}}, 422),
        ({"json": {"inputs": [[1]] * 300}}, 413),
    ],
)
async def test_errors_are_as_described(serve, request_, status):
    client = await serve(SEVERAL)
    document = await fetch(client)
    path = "/models/numbers/predict"
    response = await client.post(path, **request_)
    assert response.status == status
    schema = validator(document, response_schema(document, path, status))
    assert schema.is_valid(await response.json())
    assert not schema.is_valid({"error": "no code"})


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422, 500, 503, 504])
async def test_every_status_of_the_contract_is_described(serve, status):
    client = await serve(SEVERAL)
    document = await fetch(client)
    for path, operations in document["paths"].items():
        if "post" in operations and path != "/v2/repository/index":
            error = operations["post"]["responses"][str(status)]
            assert error["description"], path
            assert error["content"][JSON]["schema"]


@pytest.mark.parametrize("method", ["get", "post"])
async def test_what_only_our_protocol_answers_is_described(serve, method):
    client = await serve(SEVERAL)
    responses = (await fetch(client))["paths"]["/models/colour/predict"][method]["responses"]
    assert {"403", "406"} <= set(responses)


@pytest.mark.parametrize("path", ["/readyz", "/healthz", "/ping"])
async def test_readiness_is_as_described(serve, path):
    client = await serve(SEVERAL)
    responses = (await fetch(client))["paths"][path]["get"]["responses"]
    assert set(responses) == {"200", "503"}
    client.app[REPOSITORY].drain()
    answer = await client.get(path)
    document = await fetch(client)
    schema = responses["503"]["content"][JSON]["schema"]
    assert answer.status == 503
    assert validator(document, schema).is_valid(await answer.json())

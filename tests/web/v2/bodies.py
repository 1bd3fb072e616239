"""Inference requests as bytes, made by hand."""

from typing import Any

import numpy as np
import orjson

from batchserve.tasks.tensors import datatype_of
from batchserve.web.v2.request import HEADER_LENGTH
from batchserve.web.v2.tensors import to_binary
from tests.web.clients import Client

Array = np.ndarray[Any, Any]


def described(name: str, array: Array, **changes: Any) -> dict[str, Any]:
    described = {"name": name, "shape": [*array.shape], "datatype": datatype_of(array.dtype)}
    return {**described, **changes}


def in_json(name: str, array: Array, **changes: Any) -> dict[str, Any]:
    return described(name, array, **{"data": array.tolist(), **changes})


def binary(inputs: dict[str, Array], **rest: Any) -> dict[str, Any]:
    """Return the arguments of a POST whose tensors are behind its JSON."""
    data = [to_binary(array) for array in inputs.values()]
    stated = [
        described(name, array, parameters={"binary_data_size": len(content)})
        for (name, array), content in zip(inputs.items(), data, strict=True)
    ]
    header = orjson.dumps({"inputs": stated, **rest})
    headers = {HEADER_LENGTH: str(len(header))}
    return {"data": b"".join([header, *data]), "headers": headers}


def outputs_of(header: bytes, data: bytes) -> dict[str, Array]:
    """Return the tensors of an answer, wherever they are in it."""
    tensors = {}
    for output in orjson.loads(header)["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        dtype = np.dtype({"FP32": "f4", "INT64": "i8", "BOOL": "?"}[output["datatype"]])
        if size is None:
            array = np.array(output["data"], dtype)
        else:
            array, data = np.frombuffer(data[:size], dtype), data[size:]
        tensors[output["name"]] = array.reshape(output["shape"])
    assert not data
    return tensors


async def infer(client: Client, path: str, **request: Any) -> dict[str, Array]:
    """Return the tensors that a model answers with."""
    response = await client.post(path, **request)
    body = await response.read()
    assert response.status == 200, body
    length = int(response.headers.get(HEADER_LENGTH, len(body)))
    kind = "application/octet-stream" if HEADER_LENGTH in response.headers else "application/json"
    assert response.content_type == kind
    return outputs_of(body[:length], body[length:])

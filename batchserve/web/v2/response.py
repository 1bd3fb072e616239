"""From a model's output rows to the body of an inference response."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from batchserve.errors import BadRequest, InvalidInput, ModelFailed
from batchserve.repository import ModelVersion
from batchserve.tasks.tensors import datatype_of
from batchserve.web.v2.request import InferQuestion
from batchserve.web.v2.schema import RequestOutput
from batchserve.web.v2.tensors import Array, to_binary, to_json

Row = Mapping[str, Array]


def encode_infer(
    model: ModelVersion, question: InferQuestion, rows: Sequence[Row]
) -> tuple[bytes, int | None]:
    """Return a response's body, and the length of its JSON if binary data follow.

    Args:
        model: who answered.
        question: what was asked, and in which form the outputs shall come.
        rows: for each item, its outputs by name, without the batch dimension.

    Raises:
        BadRequest: an output that is asked for and does not exist.
        InvalidInput: the outputs of these inputs make no one tensor.
        ModelFailed: an output of a type that the protocol does not know.
    """
    wanted = question.outputs or [RequestOutput(name=name) for name in rows[0]]
    outputs, data = [], []
    for output in wanted:
        array = _stacked(rows, output.name)
        if output.parameters.classification:
            array = classified(array, output.parameters.classification, model.task.labels)
        described = _described(output.name, array)
        binary = output.parameters.binary_data
        if question.binary if binary is None else binary:
            data.append(to_binary(array))
            described["parameters"] = {"binary_data_size": len(data[-1])}
        else:
            described["data"] = to_json(array)
        outputs.append(described)
    head = {"model_name": model.name, "model_version": model.version}
    if question.id is not None:
        head["id"] = question.id
    header = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([header, *data]), len(header) if data else None


def classified(array: Array, count: int, labels: Sequence[str] | None) -> Array:
    """Return the best classes of each row, best first, as texts: `score:index:label`.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md

    Args:
        array: scores, of shape (n, …).
        count: at most so many classes of each row.
        labels: the classes' names; None: they have none.

    Returns:
        BYTES of shape (n, count), or fewer if there are fewer classes.
    """
    scores = array.reshape(len(array), -1)
    best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = np.empty(best.shape, dtype=object)
    for (row, place), index in np.ndenumerate(best):
        texts[row, place] = _class(scores[row, index], int(index), labels).encode()
    return texts


def _class(score: Any, index: int, labels: Sequence[str] | None) -> str:
    value = f"{score:.7g}" if isinstance(score, np.floating) else f"{int(score)}"
    if labels is None or index >= len(labels):
        return f"{value}:{index}"
    return f"{value}:{index}:{labels[index]}"


def _stacked(rows: Sequence[Row], name: str) -> Array:
    if any(name not in row for row in rows):
        raise BadRequest(f"there is no output {name!r}; there is {', '.join(rows[0])}")
    try:
        return np.stack([row[name] for row in rows])
    except ValueError:
        raise InvalidInput(
            f"the answers to these inputs differ in shape and make no one tensor {name}; send each "
            f"input in a request of its own"
        ) from None


def _described(name: str, array: Array) -> dict[str, Any]:
    try:
        datatype = datatype_of(array.dtype)
    except TypeError as error:
        raise ModelFailed(f"output {name}: {error}") from error
    return {"name": name, "datatype": datatype, "shape": [*array.shape]}

"""The forms in which inputs and outputs travel: JSON, MessagePack, and numpy's files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import msgpack
import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from batchserve.errors import BadRequest, NotAcceptable
from batchserve.mistakes import explained_in_body, place_of
from batchserve.tasks.base import Task
from batchserve.tasks.tensors import named_arrays
from batchserve.web.accept import preferred
from batchserve.web.arrays import MARK, Array, array_in, read_npy, write_npy
from batchserve.web.flat_json import flat_numbers
from batchserve.web.schema import INPUT, ITSELF, PredictRequest

JSON = "application/json"
MSGPACK = "application/msgpack"
NPY = "application/x-npy"

# The inputs, and whether the client sent a list of them.
Payloads = tuple[Sequence[Any], bool]


class Format(ABC):
    """One way to write inputs and outputs.

    Attributes:
        media_types: what it is called; the first is what we call it.
        arrays_only: it holds arrays, and nothing beside them.
    """

    media_types: ClassVar[tuple[str, ...]]
    arrays_only: ClassVar[bool] = False

    @abstractmethod
    def parse(self, data: bytes, schema: type[PredictRequest], task: Task) -> Payloads:
        """Return what a body holds.

        Args:
            data: the body.
            schema: what JSON is held against.
            task: of the model that is asked.

        Raises:
            BadRequest: it is not of this format, or not of the schema's form.
            InvalidInput: an array in it holds no plain numbers.
        """

    def encode(self, row: Any, task: Task, parameters: BaseModel) -> Any:
        """Turn an output row, on the CPU, into what stands for it in an answer.

        Raises:
            NotAcceptable: this format cannot hold it.
        """
        return task.encode(row, parameters)

    @abstractmethod
    def write(self, answer: Mapping[str, Any]) -> bytes:
        """Return an answer, which is structured as in JSON.

        Raises:
            NotAcceptable: this format cannot hold it.
        """


def formats_for(task: Task) -> Sequence[Format]:
    """Return the formats that can hold what a task takes and gives."""
    return FORMATS if task.arrays else STRUCTURED


def named(media_type: str, formats: Sequence[Format]) -> Format | None:
    """Return the format of that name, if it is among these."""
    return next((form for form in formats if media_type in form.media_types), None)


def names_of(formats: Sequence[Format]) -> tuple[str, ...]:
    """Return all names of some formats."""
    return tuple(name for form in formats for name in form.media_types)


def wanted(accept: str, formats: Sequence[Format]) -> tuple[Format, str]:
    """Return the format that a client wants its answer in, and what the client calls it.

    Args:
        accept: the header, or nothing.
        formats: those that are possible; the first is taken if the client does not care.

    Raises:
        NotAcceptable: it wants none of them.
    """
    names = names_of(formats)
    media_type = preferred(accept, names)
    form = media_type and named(media_type, formats)
    if not (media_type and form):
        raise NotAcceptable(
            f"Accept: {accept} leaves nothing that could be answered here; accept one of "
            f"{', '.join(names)}"
        )
    return form, media_type


class Json(Format):
    media_types = (JSON,)

    def parse(self, data: bytes, schema: type[PredictRequest], task: Task) -> Payloads:
        if task.flat_floats and (numbers := flat_numbers(data)) is not None:
            return [numbers], False
        if schema.untyped and (payloads := _plain(data, schema)):
            return payloads
        try:
            return schema.model_validate_json(data).payloads()
        except ValidationError as error:
            raise BadRequest(_explain(error, schema)) from None

    def write(self, answer: Mapping[str, Any]) -> bytes:
        return orjson.dumps(answer)


class MessagePack(Format):
    """What JSON holds, and more.

    An input may be a file's bytes if the task takes files, and an array, as msgpack-numpy writes
    it, if the task takes arrays; one array may stand for the list of inputs.
    """

    media_types = (MSGPACK, "application/x-msgpack", "application/vnd.msgpack")

    def parse(self, data: bytes, schema: type[PredictRequest], task: Task) -> Payloads:
        body = _unpack(data, task)
        if not isinstance(body, dict):
            raise BadRequest(f"the body must be {schema.form()}")
        if len(body) == 1 and isinstance(inputs := body.get(schema.list_name), np.ndarray):
            return _rows(inputs)
        try:
            return schema.model_validate(body).payloads()
        except ValidationError as error:
            raise BadRequest(_explain(error, schema)) from None

    def write(self, answer: Mapping[str, Any]) -> bytes:
        # What is more than lists, maps, numbers and text becomes what it is in JSON.
        packed: bytes = msgpack.packb(answer, default=lambda one: orjson.loads(orjson.dumps(one)))
        return packed


class Npy(Format):
    """One array: an input, or all inputs as its rows; likewise the outputs.

    It is a list of inputs if it has one dimension more than an input of the task, and otherwise
    one input.
    """

    media_types = (NPY,)
    arrays_only = True

    def parse(self, data: bytes, schema: type[PredictRequest], task: Task) -> Payloads:
        array = read_npy(data)
        if task.input_dims is not None and array.ndim == task.input_dims + 1:
            return _rows(array)
        return [array], False

    def encode(self, row: Any, task: Task, parameters: BaseModel) -> Any:
        arrays = named_arrays(row)
        if len(arrays) > 1:
            raise NotAcceptable(
                f"an output of this model is several tensors, {', '.join(arrays)}, which {NPY} "
                f"cannot hold; accept {JSON} or {MSGPACK}"
            )
        (array,) = arrays.values()
        return array

    def write(self, answer: Mapping[str, Any]) -> bytes:
        if "output" in answer:
            return write_npy(answer["output"])
        outputs: Sequence[Array] = answer["outputs"]
        if len({output.shape for output in outputs}) > 1:
            raise NotAcceptable(
                f"the outputs have several shapes, which one array cannot hold; accept {JSON} or "
                f"{MSGPACK}"
            )
        return write_npy(np.stack(outputs))


STRUCTURED: Sequence[Format] = (Json(), MessagePack())
FORMATS: Sequence[Format] = (*STRUCTURED, Npy())


def _plain(data: bytes, schema: type[PredictRequest]) -> Payloads | None:
    """Return what a body holds if it is as it should be: twice as fast as by the schema."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if type(body) is not dict or len(body) != 1:
        return None
    ((name, value),) = body.items()
    if name == INPUT:
        return [value], False
    return (value, True) if name == schema.list_name and type(value) is list and value else None


def _explain(error: ValidationError, schema: type[PredictRequest]) -> str:
    mistakes = error.errors(include_url=False, include_input=False)
    # What an input is tried as beside itself is not what most clients mean.
    mistake = next((one for one in mistakes if ITSELF in one["loc"]), mistakes[0])
    mistake["loc"] = tuple(part for part in mistake["loc"] if part != ITSELF)
    if mistake["type"] == "extra_forbidden":
        return f"{place_of(mistake)}: unknown field; the body must be {schema.form()}"
    return explained_in_body(mistake)


def _unpack(data: bytes, task: Task) -> Any:
    # A list is made as long as it says it is; so first see that all of it is there.
    reader = msgpack.Unpacker(max_buffer_size=max(1, len(data)))
    reader.feed(data)
    try:
        reader.skip()
        return msgpack.unpackb(data, object_hook=partial(_map, task), ext_hook=_no_extension)
    except (ValueError, msgpack.OutOfData) as error:
        raise BadRequest(f"the body is not MessagePack: {error or type(error).__name__}") from None


def _map(task: Task, packed: dict[Any, Any]) -> Any:
    if task.arrays and MARK in packed:
        return array_in(packed)
    if not all(isinstance(key, str) for key in packed):
        raise BadRequest("a key in the body is no text, nor that of an array for this model")
    return packed


def _no_extension(code: int, _: bytes) -> Any:
    raise BadRequest(f"the body has a MessagePack extension, of type {code}; none is read")


def _rows(array: Array) -> Payloads:
    if array.ndim == 0 or len(array) == 0:
        raise BadRequest("the array is the list of inputs, and must have at least one row")
    # No list: that of many short rows would take a hundred times the memory.
    return cast("Sequence[Any]", array), True

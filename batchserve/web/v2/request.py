"""From the body of an inference request to the payloads that a task decodes."""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from batchserve.batch import Terms
from batchserve.errors import BadRequest, RequestError, TooLarge
from batchserve.repository import ModelVersion
from batchserve.tasks.tensors import DATATYPES, VARIES, TensorSpec
from batchserve.web.asking import Question
from batchserve.web.body import check_head
from batchserve.web.keys import POOL
from batchserve.web.terms import restated
from batchserve.web.v2.schema import (
    InferRequest,
    InputParameters,
    RequestInput,
    RequestOutput,
    RequestParameters,
    parse,
)
from batchserve.web.v2.tensors import BYTES, LENGTH, Array, from_binary, from_json

HEADER_LENGTH = "Inference-Header-Content-Length"
LENGTH_FORM = re.compile(r"[0-9]{1,18}")
# A larger body takes longer to parse than a hand-over to a thread.
INLINE_BYTES = 16 * 1024

Restate = Callable[[int, int], Terms]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferQuestion(Question):
    """An inference request.

    Attributes:
        id: to be repeated.
        outputs: those that are asked for; none: all.
        binary: whether outputs that do not say go behind the JSON.
    """

    id: str | None
    outputs: Sequence[RequestOutput]
    binary: bool

    @property
    def classifies(self) -> bool:
        """Whether classes are asked for, instead of their scores."""
        return any(output.parameters.classification for output in self.outputs)


async def read_infer(
    request: web.Request, model: ModelVersion, terms: Terms, arrived_s: float
) -> InferQuestion:
    """Read and parse an inference request.

    Args:
        request: whose body is not read yet.
        model: that shall answer.
        terms: those of the headers.
        arrived_s: when the request did, on the batcher's clock.

    Raises:
        BadRequest: it is not of the protocol, or asks for what the model does not have.
        InvalidInput: tensors that are no input of this model.
        TooLarge, UnsupportedMedia: as for any body.
    """
    check_head(request)
    body = await request.read()
    work = partial(
        parse_infer, body, _header_length(request), model, partial(restated, terms, arrived_s)
    )
    return work() if len(body) < INLINE_BYTES else await request.app[POOL].decode(work)


def parse_infer(
    body: bytes, header_length: int | None, model: ModelVersion, restate: Restate
) -> InferQuestion:
    """Return what a body asks.

    Args:
        body: JSON, and behind it the data of those inputs that state a size.
        header_length: of the JSON; None: all is JSON; 0: all is the data of the only input.
        model: that shall answer.
        restate: from priority and timeout, as the parameters state them, to terms.

    Raises:
        BadRequest, InvalidInput, TooLarge: as for `read_infer`.
    """
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise BadRequest(f"{HEADER_LENGTH}: {length}, but the body has {len(body)} bytes only")
    specs = model.task.input_specs()
    if header_length == 0:
        stated, body = _raw(body, specs)
    else:
        stated = parse(InferRequest, body[:length])
    _check_inputs(
        stated.inputs, [spec.name for spec in specs], model.config.batching.max_queue_size
    )
    if model.outputs:
        outputs = [part.name for part in stated.outputs]
        _check_names("output", outputs, [spec.name for spec in model.outputs])
    tensors = _tensors(stated.inputs, memoryview(body)[length:])
    try:
        payloads = list(model.task.payloads(tensors))
    except RequestError as error:
        names = ", ".join(map(repr, tensors))
        raise type(error)(f"input {names}: {error}") from error
    return InferQuestion(
        payloads=payloads,
        size=len(body),
        terms=restate(stated.parameters.priority, stated.parameters.timeout),
        id=stated.id,
        outputs=stated.outputs,
        binary=stated.parameters.binary_data_output,
    )


def _header_length(request: web.Request) -> int | None:
    stated = request.headers.get(HEADER_LENGTH)
    if stated is None:
        return None
    if not LENGTH_FORM.fullmatch(stated):
        raise BadRequest(f"{HEADER_LENGTH}: {stated!r} is not a number of bytes")
    return int(stated)


def _raw(body: bytes, specs: Sequence[TensorSpec]) -> tuple[InferRequest, bytes]:
    """Return the request that a body is which holds one item of the only input, and no JSON.

    Returns:
        The request, as if there were JSON, and the data behind it.
    """
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise BadRequest(f"{HEADER_LENGTH}: 0 is for models of one input; this one has {names}")
    (spec,) = specs
    if spec.shape.count(VARIES) > 1:
        raise BadRequest(
            f"{HEADER_LENGTH}: 0 leaves the shape of {spec.name} open, {[*spec.shape]}; state it "
            f"in JSON before the data"
        )
    if spec.datatype == BYTES:
        body = LENGTH.pack(len(body)) + body
    size = DATATYPES[spec.datatype].itemsize * abs(math.prod(spec.shape))
    stated = RequestInput(
        name=spec.name,
        shape=[1, *(max(1, len(body) // size) if n == VARIES else n for n in spec.shape)],
        datatype=spec.datatype,
        parameters=InputParameters(binary_data_size=len(body)),
    )
    return InferRequest(
        inputs=[stated], parameters=RequestParameters(binary_data_output=True)
    ), body


def _check_names(what: str, stated: Sequence[str], known: Collection[str]) -> None:
    twice = [name for name, times in Counter(stated).items() if times > 1]
    if twice:
        raise BadRequest(f"{what} {twice[0]!r} is named twice")
    for name in stated:
        if name not in known:
            raise BadRequest(f"there is no {what} {name!r}; there is {', '.join(known)}")


def _check_inputs(inputs: Sequence[RequestInput], known: Collection[str], most_rows: int) -> None:
    _check_names("input", [part.name for part in inputs], known)
    for name in known:
        if all(part.name != name for part in inputs):
            raise BadRequest(f"input {name!r} is missing")
    rows = inputs[0].shape[0]
    for part in inputs:
        if part.shape[0] != rows:
            raise BadRequest(
                f"input {part.name!r} has {part.shape[0]} rows and {inputs[0].name!r} {rows}; the "
                f"first dimension of all is the batch"
            )
    if rows > most_rows:
        # Before anything is made of each of them.
        raise TooLarge(
            f"{rows} inputs in one request; at most max_queue_size={most_rows} can ever wait, so "
            f"send them in several requests"
        )


def _tensors(inputs: Sequence[RequestInput], data: memoryview) -> dict[str, Array]:
    total = sum(part.parameters.binary_data_size or 0 for part in inputs)
    if total != len(data):
        raise BadRequest(
            f"{len(data)} bytes follow the JSON, whose length is {HEADER_LENGTH}; the inputs' "
            f"binary_data_size is {total} in all"
        )
    tensors: dict[str, Array] = {}
    for part in inputs:
        size = part.parameters.binary_data_size
        try:
            if size is None:
                tensors[part.name] = from_json(part.data, part.datatype, part.shape)
            elif part.data is not None:
                raise BadRequest("it has both data and binary_data_size")
            else:
                tensors[part.name] = from_binary(data[:size], part.datatype, part.shape)
                data = data[size:]
        except BadRequest as error:
            raise BadRequest(f"input {part.name!r}: {error}") from None
    return tensors

"""One request's way through a model: decode, submit, wait, encode. No HTTP in it."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from batchserve.batch import CloseReason, Item
from batchserve.batching.batcher import Arrival
from batchserve.decoding import CodecPool
from batchserve.errors import ModelFailed, RequestError
from batchserve.repository import ModelVersion
from batchserve.tasks.base import Task
from batchserve.tasks.tensors import are_items

# A larger output is turned into lists and text on a thread: 20 KB are 5,000 numbers in fp32.
INLINE_OUTPUT_BYTES = 20_000

# From an output row, on the CPU, to what is answered for it.
Encode = Callable[[Any], Any]


class Answer(NamedTuple):
    """What a model answered, and how this request spent its time.

    Of several inputs, the figures are those of the one that took longest in each stage.

    Attributes:
        model: who answered.
        rows: of the model, on the CPU, one for each input.
        outputs: one for each input, in the order of the inputs.
        batch_size: items that shared the forward pass.
        batch_reason: why the batch was closed when it was; of several batches, the last one.
        decode_s: for all inputs together, the wait for a thread included.
        encode_s: for all outputs together, likewise.
        is_small: the outputs are few numbers, and cost the event loop little.
    """

    model: ModelVersion
    rows: Sequence[Any]
    outputs: list[Any]
    batch_size: int
    batch_reason: CloseReason
    decode_s: float
    queue_s: float
    forward_s: float
    encode_s: float
    is_small: bool


async def infer(
    model: ModelVersion,
    arrival: Arrival,
    payloads: Sequence[Any],
    body_bytes: int,
    encode: Encode,
    pool: CodecPool,
) -> Answer:
    """Return the model's answer to each payload.

    Args:
        model: ready.
        arrival: this request's, with the model's batcher.
        payloads: as the client sent them, or all of them items already.
        body_bytes: the size of the whole body; a small one is decoded on the loop.
        encode: of one row; the task's, as a rule.
        pool: for decoding and encoding what is not small.

    Raises:
        InvalidInput, TooLarge: of the first payload that is wrong; nothing was computed.
        QueueFull, Overloaded: there is no room or no time for all; nothing was decoded.
        ModelFailed, DeadlineExceeded: of the first item that failed.
        RequestError: of `encode`.
    """
    arrival.reserve(len(payloads))
    started_s = perf_counter()
    if are_items(payloads):
        tensors = list(payloads)
    elif body_bytes < model.task.inline_bytes:
        tensors = decode(model.task, payloads)
    else:
        tensors = await _decode_in_pool(model.task, payloads, pool)
    decode_s = perf_counter() - started_s

    items = arrival.submit(tensors)
    rows = await _rows_of(items)

    started_s = perf_counter()
    is_small = are_small(rows)
    if is_small:
        outputs = encode_rows(encode, rows)
    else:
        outputs = await pool.encode(encode_rows, encode, rows)
    encode_s = perf_counter() - started_s
    return answer_of(model, rows, outputs, items, decode_s, encode_s, is_small=is_small)


def decode(task: Task, payloads: Sequence[Any]) -> list[Any]:
    """Return an item for each payload; where that takes no longer than a hand-over to a thread.

    Raises:
        InvalidInput, TooLarge: of the first payload that is wrong.
    """
    if len(payloads) == 1:
        return [task.decode(payloads[0])]
    return [_decode(task, payloads, i) for i in range(len(payloads))]


async def _decode_in_pool(task: Task, payloads: Sequence[Any], pool: CodecPool) -> list[Any]:
    decoding = [
        asyncio.ensure_future(pool.decode(_decode, task, payloads, i)) for i in range(len(payloads))
    ]
    try:
        return await asyncio.gather(*decoding)
    finally:
        # If one is wrong, the others are for nothing.
        for future in decoding:
            future.cancel()


async def _rows_of(items: Sequence[Item]) -> list[Any]:
    futures = [item.future for item in items]
    try:
        return await asyncio.gather(*futures)
    finally:
        # If one has failed, nobody waits for the others any more.
        for future in futures:
            future.cancel()


def _decode(task: Task, payloads: Sequence[Any], index: int) -> Any:
    try:
        return task.decode(payloads[index])
    except RequestError as error:
        if len(payloads) == 1:
            raise
        raise type(error)(f"inputs[{index}]: {error}") from error


def are_small(rows: Sequence[Any]) -> bool:
    """Whether encoding the rows takes no longer than a hand-over to a thread."""
    most = INLINE_OUTPUT_BYTES / len(rows)
    return all(getattr(row, "nbytes", INLINE_OUTPUT_BYTES) < most for row in rows)


def encode_rows(encode: Encode, rows: Sequence[Any]) -> list[Any]:
    """Return an output for each row.

    Raises:
        RequestError: of `encode`.
        ModelFailed: the model's output is none that `encode` knows.
    """
    try:
        return [encode(row) for row in rows]
    except RequestError:
        raise
    except Exception as error:
        raise ModelFailed(
            f"the model's output cannot be encoded ({type(error).__name__})"
        ) from error


def answer_of(
    model: ModelVersion,
    rows: Sequence[Any],
    outputs: list[Any],
    items: Sequence[Item],
    decode_s: float,
    encode_s: float,
    *,
    is_small: bool,
) -> Answer:
    """Return what is told of some items that have been computed, and of their outputs."""
    if len(items) == 1 and (batch := items[0].batch):
        waited_s = batch.formed_s - items[0].queued_s
        return Answer(
            model, rows, outputs, len(batch), batch.reason, decode_s, waited_s, batch.forward_s,
            encode_s, is_small,
        )  # fmt: skip
    batches = [batch for item in items if (batch := item.batch)]
    waits = [batch.formed_s - item.queued_s for item in items if (batch := item.batch)]
    return Answer(
        model=model,
        rows=rows,
        outputs=outputs,
        batch_size=max(map(len, batches)),
        batch_reason=max(batches, key=lambda batch: batch.started_s).reason,
        decode_s=decode_s,
        queue_s=max(waits),
        forward_s=max(batch.forward_s for batch in batches),
        encode_s=encode_s,
        is_small=is_small,
    )

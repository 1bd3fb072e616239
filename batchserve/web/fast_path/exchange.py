"""One prediction on the fast path: from its body to its answer, in callbacks."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from batchserve.batch import Item
from batchserve.errors import DeadlineExceeded, InternalError, RequestError
from batchserve.inference import Answer, answer_of, are_small, decode, encode_rows
from batchserve.repository import ModelVersion
from batchserve.web.answering import error_body, error_headers, new_id
from batchserve.web.ask import headers_of
from batchserve.web.fast_path.head import Head
from batchserve.web.fast_path.services import Services
from batchserve.web.fast_path.slot import Slot
from batchserve.web.formats import STRUCTURED
from batchserve.web.schema import schema_of

if TYPE_CHECKING:
    from batchserve.batching.batcher import Arrival

logger = logging.getLogger(__name__)

OK = 200
FORMAT = STRUCTURED[0]


class Exchange:
    """One request and its answer.

    Args:
        head: of the request.
        model: that shall answer: ready, and of a task that decodes so small a body on the event
            loop.
        parameters: the task's, as they are where a client states none.
        services: what it uses.
        on_answer: called with it and the answer's body, unless it is abandoned before.

    Attributes:
        deadline_s: on the batcher's clock; after it, an answer is worth nothing.
        status: of the answer.
        headers: what the answer tells, beside what every answer does.
        code: of the error, if it was answered with one.
        answer: the model's, if it gave one.
        seconds: from the request's head to its answer.
    """

    __slots__ = (
        *("answer", "code", "deadline_s", "head", "headers", "model", "request_id", "seconds"),
        *("status", "_arrival", "_decode_s", "_encoding", "_is_list", "_items", "_is_over"),
        *(
            "_on_answer",
            "_parameters",
            "_refusal",
            "_services",
            "_started_s",
            "_timeout_ms",
            "_unanswered",
        ),
    )

    def __init__(
        self,
        head: Head,
        model: ModelVersion,
        parameters: BaseModel,
        services: Services,
        on_answer: "Callable[[Exchange, bytes], None]",
    ) -> None:
        self.head, self.model = head, model
        self.request_id = head.request_id or new_id()
        self.status, self.seconds = OK, 0.0
        self.headers: Mapping[str, str] = {}
        self.code: str | None = None
        self.answer: Answer | None = None
        self._parameters, self._services, self._on_answer = parameters, services, on_answer
        self._started_s = perf_counter()
        self._items: Sequence[Item] = ()
        self._is_over = False
        self._encoding: asyncio.Task[None] | None = None
        batcher = model.batcher
        now_s = batcher.clock()
        terms = head.stated.terms(now_s, services.default_timeout_ms, model.config.slo_ms)
        self.deadline_s = terms.deadline_s
        self._timeout_ms = 1000 * (terms.deadline_s - now_s)
        self._arrival: Arrival | None = None
        self._refusal: RequestError | None = None
        try:
            self._arrival = batcher.arrival(terms)
        except RequestError as error:
            self._refusal = error.with_traceback(None)
        services.traffic.__enter__()

    def read(self, body: bytes, *, at_once: bool) -> None:
        """Have the model answer what the body holds.

        Args:
            body: the whole of it.
            at_once: nothing has happened since the head.
        """
        if self._arrival is None:
            self._fail(self._refusal or InternalError("it was not let in"))
            return
        try:
            self._items = self._submit(self._arrival, body, at_once=at_once)
        except Exception as error:  # noqa: BLE001 - a task may raise any
            self._fail(error)

    def expire(self) -> None:
        """Answer that it is too late."""
        timeout_ms = max(1, round(self._timeout_ms))
        self._fail(DeadlineExceeded(f"no answer within {timeout_ms} ms"))

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        if not self._is_over:
            self._end()

    def _submit(self, arrival: "Arrival", body: bytes, *, at_once: bool) -> Sequence[Item]:
        task = self.model.task
        payloads, self._is_list = FORMAT.parse(body, schema_of(type(task)).request, task)
        if len(payloads) > 1 or not at_once:
            # One has been let in, and if nothing has happened since, that still holds.
            arrival.reserve(len(payloads))
        started_s = perf_counter()
        tensors = decode(task, payloads)
        self._decode_s = perf_counter() - started_s
        self._unanswered = len(tensors)
        return arrival.submit(tensors, self._make_slot)

    def _make_slot(self) -> "asyncio.Future[Any]":
        return cast("asyncio.Future[Any]", Slot(self._on_row))

    def _on_row(self, slot: Slot) -> None:
        self._unanswered -= 1
        if self._is_over:
            return
        if (error := slot.exception()) is not None:
            self._fail(error)
        elif len(self._items) == 1:
            self._encode((slot.result(),))
        elif not self._unanswered:
            self._encode([item.future.result() for item in self._items])

    def _encode(self, rows: Sequence[Any]) -> None:
        if not are_small(rows):
            self._encoding = asyncio.create_task(self._encode_apart(rows))
            return
        started_s = perf_counter()
        try:
            outputs = encode_rows(self._encode_row, rows)
            body = FORMAT.write(self._content(outputs))
        except Exception as error:  # noqa: BLE001 - a task may raise any
            self._fail(error)
            return
        self._succeed(rows, outputs, body, perf_counter() - started_s)

    async def _encode_apart(self, rows: Sequence[Any]) -> None:
        pool = self._services.pool
        started_s = perf_counter()
        try:
            outputs = await pool.encode(encode_rows, self._encode_row, rows)
            body = await pool.encode(FORMAT.write, self._content(outputs))
        except Exception as error:  # noqa: BLE001 - a task may raise any
            self._fail(error)
            return
        self._succeed(rows, outputs, body, perf_counter() - started_s)

    def _encode_row(self, row: Any) -> Any:
        return self.model.task.encode(row, self._parameters)

    def _content(self, outputs: list[Any]) -> dict[str, Any]:
        found = {"outputs": outputs} if self._is_list else {"output": outputs[0]}
        return {**found, "model": self.model.name, "version": self.model.version}

    def _succeed(
        self, rows: Sequence[Any], outputs: list[Any], body: bytes, encode_s: float
    ) -> None:
        if self._is_over:
            return
        if self.deadline_s <= self.model.batcher.clock():
            self.expire()
            return
        answer = answer_of(
            self.model, rows, outputs, self._items, self._decode_s, encode_s, is_small=True
        )
        self.answer, self.headers = answer, headers_of(answer)
        self._answer(body)

    def _fail(self, error: BaseException) -> None:
        if self._is_over:
            return
        if not isinstance(error, RequestError):
            logger.error(
                "request %s: POST %s failed", self.request_id, self.head.path, exc_info=error
            )
            error = InternalError(f"the server failed; its log has request {self.request_id}")
        self.status, self.code, self.headers = error.status, error.code, error_headers(error)
        self._answer(error_body(error))
        self._services.counting.refusal(self.model, error)

    def _answer(self, body: bytes) -> None:
        self.seconds = perf_counter() - self._started_s
        self._end()
        try:
            self._services.counting.answer(self.model, self.status, self.seconds, self.answer)
        finally:
            self._on_answer(self, body)

    def _end(self) -> None:
        self._is_over = True
        if self._arrival is not None and self.answer is None:
            self.model.batcher.leave(self._arrival)
            for item in self._items:
                item.future.cancel()
        self._services.traffic.__exit__(None, None, None)

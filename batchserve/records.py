"""What a request and its forward passes leave behind: numbers, and none of their tensors.

All times are seconds on the batcher's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchserve.batch import Batch, Item


@dataclass(slots=True, eq=False)
class PassRecord:
    """A forward pass, which the requests that were in it share.

    Attributes:
        span: what a tracer has made of it.
    """

    size: int
    reason: str
    formed_s: float
    started_s: float
    forward_s: float
    span: Any = None


@dataclass(slots=True, eq=False, kw_only=True)
class RequestRecord:
    """A request, from its head to its answer.

    Attributes:
        headers: as they came; they tell what the request is a part of.
        route: the path's pattern, empty if there is no such path.
        code: of the error, if the answer is one.
        decode_s: how long decoding took; it ended at `queued_s`.
        queued_s: when its items were put on the queue; None: none was.
        passes: those that its items were in, in their order.
    """

    headers: Mapping[str, str]
    method: str
    path: str
    route: str
    peer: str
    began_s: float
    ended_s: float = 0.0
    status: int = 0
    request_id: str = ""
    code: str | None = None
    model: str | None = None
    version: str | None = None
    decode_s: float = 0.0
    queued_s: float | None = None
    passes: list[PassRecord] = field(default_factory=list)

    def note(self, items: Sequence[Item], decode_s: float) -> None:
        """Take from the request's items what is to be kept of them."""
        self.decode_s = decode_s
        self.queued_s = items[0].queued_s
        batches = {id(item.batch): item.batch for item in items if item.batch}
        self.passes = sorted(map(_record_of, batches.values()), key=lambda each: each.started_s)


class Tracer(Protocol):
    """Makes something of records, later."""

    def note(self, record: RequestRecord) -> None:
        """Take a record, at once."""


def _record_of(batch: Batch) -> PassRecord:
    if batch.record is None:
        batch.record = PassRecord(
            len(batch), batch.reason, batch.formed_s, batch.started_s, batch.forward_s
        )
    return batch.record

"""The last batches of this worker, in numbers: who waited, how long, and for which forward pass.

`chrome_events` tells them in the format of chrome://tracing, which Perfetto reads:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from batchserve.batch import Batch, CloseReason

MOST_BATCHES = 4_000
MOST_ITEMS = 65_536
# A pass may seem to begin a rounding error before the one before it ends.
SLACK_S = 1e-7

Event = dict[str, Any]


class BatchRecord(NamedTuple):
    """What is left of a batch once its tensors are gone. Seconds on the batcher's clock.

    Attributes:
        number: counts the batches of this worker.
        track: the model and version, as in `resnet:1`.
        queued: items that waited when the pass had ended.
        times: of each item, when its request arrived and when it was put on the queue.
    """

    number: int
    track: str
    reason: CloseReason
    formed_s: float
    started_s: float
    forward_s: float
    queued: int
    times: "array[float]"

    @property
    def size(self) -> int:
        return len(self.times) // 2


class Trace:
    """Keeps the last batches: so many, and of so many items altogether.

    Args:
        most_batches: to keep.
        most_items: in them; a single larger batch is kept all the same.
    """

    def __init__(self, most_batches: int = MOST_BATCHES, most_items: int = MOST_ITEMS) -> None:
        self._records: deque[BatchRecord] = deque(maxlen=most_batches)
        self._most_items = most_items
        self._items = 0
        self._seen = 0

    def on_batch(self, track: str, batch: Batch, queued: int) -> None:
        """Record a batch after its forward pass; nothing of it is kept alive."""
        times = array("d")
        for item in batch.items:
            times.append(getattr(item.request, "arrived_s", item.queued_s))
            times.append(item.queued_s)
        if len(self._records) == self._records.maxlen:
            self._forget_one()
        self._records.append(
            BatchRecord(
                self._seen, track, batch.reason, batch.formed_s, batch.started_s, batch.forward_s,
                queued, times,
            )
        )  # fmt: skip
        self._seen += 1
        self._items += len(batch)
        while self._items > self._most_items and len(self._records) > 1:
            self._forget_one()

    def last(self, count: int | None = None) -> list[BatchRecord]:
        """Return the last `count` batches, or all that are kept, in their order."""
        records = list(self._records)
        return records if count is None else records[-count:]

    def _forget_one(self) -> None:
        self._items -= self._records.popleft().size


def chrome_events(
    records: Iterable[BatchRecord], pid: int, tracks: Iterable[str]
) -> Iterator[list[Event]]:
    """Yield lists of trace events: first the names of the process and its tracks, then each batch.

    Passes that overlap are on tracks of their own, for on one they would have to nest.

    Args:
        records: what happened.
        pid: of this worker, which is the process in the trace.
        tracks: every model and version that is served; each has a track for its forward passes.
    """
    kept, tracks = list(records), list(tracks)
    places = _places(kept)
    rows = dict.fromkeys([(track, 0) for track in tracks])
    rows |= dict.fromkeys((record.track, places[record.number]) for record in kept)
    threads = {row: number for number, row in enumerate(sorted(rows, key=_order(tracks)), start=1)}
    yield [
        _name(pid, 0, "process_name", f"worker {pid}: {', '.join(tracks)}"),
        *(_name(pid, tid, "thread_name", _row_name(*row)) for row, tid in threads.items()),
    ]
    for record in kept:
        tid = threads[record.track, places[record.number]]
        yield [_forward(record, pid, tid), *_waits(record, pid)]


def _places(records: Iterable[BatchRecord]) -> dict[int, int]:
    """Return, by the batches' numbers, the first row of their track on which they overlap none."""
    places: dict[int, int] = {}
    free_s: dict[str, list[float]] = {}
    for record in sorted(records, key=attrgetter("started_s")):
        rows = free_s.setdefault(record.track, [])
        begins_s = record.started_s + SLACK_S
        place = next((n for n, until_s in enumerate(rows) if until_s <= begins_s), len(rows))
        rows[place : place + 1] = [record.started_s + record.forward_s]
        places[record.number] = place
    return places


def _order(tracks: Sequence[str]) -> Callable[[tuple[str, int]], tuple[int, int]]:
    return lambda row: (tracks.index(row[0]), row[1])


def _row_name(track: str, place: int) -> str:
    return f"{track} forward{f' {place + 1}' if place else ''}"


def _name(pid: int, tid: int, kind: str, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": {"name": name}}


def _forward(record: BatchRecord, pid: int, tid: int) -> Event:
    return {
        "ph": "X",
        "cat": "forward",
        "name": f"{record.size} × {record.reason}",
        "pid": pid,
        "tid": tid,
        "ts": _micros(record.started_s),
        "dur": _micros(record.forward_s),
        "args": {
            "batch": record.number,
            "model": record.track,
            "size": record.size,
            "reason": record.reason,
            "queued_after": record.queued,
        },
    }


def _waits(record: BatchRecord, pid: int) -> Iterator[Event]:
    """From arrival to the queue (`decode`), and from there to the batch; one span around both."""
    for place in range(record.size):
        arrived_s, queued_s = record.times[2 * place : 2 * place + 2]
        same = {"cat": "wait", "id": f"{pid}.{record.number}.{place}", "pid": pid, "tid": 0}
        whole = {**same, "name": f"{record.track} wait"}
        decode = {**same, "name": "decode"}
        args = {
            "batch": record.number,
            "decode_ms": _millis(queued_s - arrived_s),
            "queue_ms": _millis(record.formed_s - queued_s),
        }
        yield {**whole, "ph": "b", "ts": _micros(arrived_s), "args": args}
        yield {**decode, "ph": "b", "ts": _micros(arrived_s)}
        yield {**decode, "ph": "e", "ts": _micros(queued_s)}
        yield {**whole, "ph": "e", "ts": _micros(record.formed_s)}


def _micros(seconds: float) -> float:
    return round(1e6 * seconds, 3)


def _millis(seconds: float) -> float:
    return round(1e3 * seconds, 3)

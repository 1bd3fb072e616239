"""The record of the last batches: its bounds, what it lets go, and the events it becomes."""

import gc
import weakref
from typing import Any

import torch

from batchserve.batch import Batch, CloseReason, Item, Terms
from batchserve.trace import Trace, chrome_events

NO_FUTURE: Any = None
PID = 7


class Request:
    """Stands for an arrival."""

    def __init__(self, arrived_s: float) -> None:
        self.arrived_s = arrived_s


def batch_of(size: int, *, at_s: float = 0.0) -> Batch:
    """Return a batch: arrived after 1 s, queued after 2, closed after 3, computed from 4 to 5."""
    items = [
        Item(
            tensor=torch.zeros(1),
            bucket_key="key",
            request=Request(at_s + 1),
            terms=Terms(due_s=at_s + 9, deadline_s=at_s + 9),
            queued_s=at_s + 2,
            future=NO_FUTURE,
        )
        for _ in range(size)
    ]
    return Batch(items, CloseReason.FULL, formed_s=at_s + 3, started_s=at_s + 4, forward_s=1.0)


def events_of(trace: Trace, *tracks: str) -> list[dict[str, Any]]:
    return [event for events in chrome_events(trace.last(), PID, tracks) for event in events]


def test_the_last_batches_are_kept_in_their_order():
    trace = Trace(most_batches=3)
    for size in (1, 2, 3, 4, 5):
        trace.on_batch("m:1", batch_of(size), queued=0)
    assert [record.size for record in trace.last()] == [3, 4, 5]
    assert [record.number for record in trace.last()] == [2, 3, 4]
    assert [record.size for record in trace.last(2)] == [4, 5]
    assert len(trace.last(100)) == 3


def test_their_items_are_bounded_too():
    trace = Trace(most_items=10)
    for _ in range(20):
        trace.on_batch("m:1", batch_of(4), queued=0)
    assert [record.size for record in trace.last()] == [4, 4]


def test_both_bounds_together_count_what_is_there():
    trace = Trace(most_batches=2, most_items=10)
    for size in (1, 1, 1, 9, 1, 9, 9):
        trace.on_batch("m:1", batch_of(size), queued=0)
        kept = trace.last()
        assert len(kept) <= 2
        assert sum(record.size for record in kept) <= 10


def test_one_batch_over_the_bound_is_kept():
    trace = Trace(most_items=10)
    trace.on_batch("m:1", batch_of(1), queued=0)
    trace.on_batch("m:1", batch_of(50), queued=0)
    assert [record.size for record in trace.last()] == [50]


def test_nothing_of_a_batch_is_kept_alive():
    trace = Trace()
    batch = batch_of(2)
    kept = [batch, batch.items[0], batch.items[0].tensor, batch.items[0].request]
    watched = [weakref.ref(thing) for thing in kept if not isinstance(thing, Item | Batch)]
    trace.on_batch("m:1", batch, queued=0)
    del batch, kept
    gc.collect()
    assert [watch() for watch in watched] == [None, None]
    assert trace.last()[0].size == 2


def test_a_forward_pass_is_a_slice_on_its_models_track():
    trace = Trace()
    trace.on_batch("a:1", batch_of(8), queued=5)
    trace.on_batch("b:2", batch_of(1), queued=0)
    events = events_of(trace, "a:1", "b:2")
    names = {
        (event["name"], event["tid"]): event["args"]["name"]
        for event in events
        if event["ph"] == "M"
    }
    assert names == {
        ("process_name", 0): f"worker {PID}: a:1, b:2",
        ("thread_name", 1): "a:1 forward",
        ("thread_name", 2): "b:2 forward",
    }
    first, second = [event for event in events if event["ph"] == "X"]
    assert first == {
        "ph": "X",
        "cat": "forward",
        "name": "8 × full",
        "pid": PID,
        "tid": 1,
        "ts": 4e6,
        "dur": 1e6,
        "args": {"batch": 0, "model": "a:1", "size": 8, "reason": "full", "queued_after": 5},
    }
    assert (second["tid"], second["name"], second["args"]["batch"]) == (2, "1 × full", 1)


def test_each_items_wait_is_a_span_of_its_own_with_its_decoding_in_it():
    trace = Trace()
    trace.on_batch("m:1", batch_of(2), queued=0)
    spans: dict[str, list[Any]] = {}
    for event in events_of(trace, "m:1"):
        if event["ph"] in "be":
            assert event["cat"] == "wait"
            spans.setdefault(event["id"], []).append((event["ph"], event["name"], event["ts"]))
    expected = [
        ("b", "m:1 wait", 1e6),
        ("b", "decode", 1e6),
        ("e", "decode", 2e6),
        ("e", "m:1 wait", 3e6),
    ]
    assert list(spans.values()) == [expected, expected]


def test_a_wait_says_what_it_was_spent_on_and_for_which_batch():
    trace = Trace()
    trace.on_batch("m:1", batch_of(1), queued=0)
    trace.on_batch("m:1", batch_of(1), queued=0)
    found = [event.get("args", {}) for event in events_of(trace, "m:1")]
    args = [args for args in found if "decode_ms" in args]
    assert args == [
        {"batch": 0, "decode_ms": 1000, "queue_ms": 1000},
        {"batch": 1, "decode_ms": 1000, "queue_ms": 1000},
    ]


def test_passes_at_the_same_time_are_on_rows_of_their_own():
    trace = Trace()
    # Each takes a second; the fourth begins when the first ends.
    for track, at_s in (("m:1", 0.0), ("m:1", 0.5), ("o:1", 0.2), ("m:1", 1.0), ("m:1", 1.2)):
        trace.on_batch(track, batch_of(1, at_s=at_s), queued=0)
    events = events_of(trace, "m:1", "o:1")
    names = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
    rows = [(names[one["tid"]], one["ts"] / 1e6) for one in events if one["ph"] == "X"]
    assert rows == [
        ("m:1 forward", 4.0),
        ("m:1 forward 2", 4.5),
        ("o:1 forward", 4.2),
        ("m:1 forward", 5.0),
        ("m:1 forward 3", 5.2),
    ]
    assert list(names.values()) == ["m:1 forward", "m:1 forward 2", "m:1 forward 3", "o:1 forward"]

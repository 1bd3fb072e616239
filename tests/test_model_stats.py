"""The statistics: what is counted, and that workers' counts add up."""

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from batchserve.batch import Batch, CloseReason, Item, Terms
from batchserve.inference import Answer
from batchserve.model_stats import Counts, ModelStats, described

TERMS = Terms(1.0, 1.0)


def answer(outputs: int = 1, **seconds: float) -> Answer:
    stages = {"decode_s": 0.0, "queue_s": 0.0, "forward_s": 0.0, "encode_s": 0.0, **seconds}
    return Answer(
        model=None,  # type: ignore[arg-type]
        rows=[None] * outputs,
        outputs=[None] * outputs,
        batch_size=1,
        batch_reason=CloseReason.IDLE,
        is_small=True,
        **stages,
    )


def batch(*outcomes: Any, forward_s: float = 0.0) -> Batch:
    """Return a batch whose items have these outcomes; None is that of a client who left."""
    items = []
    loop = asyncio.new_event_loop()
    for outcome in outcomes:
        future: asyncio.Future[Any] = loop.create_future()
        if outcome is None:
            future.cancel()
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        items.append(Item(None, None, None, TERMS, 0.0, future))  # type: ignore[arg-type]
    loop.close()
    return Batch(items, CloseReason.IDLE, 0.0, forward_s=forward_s)


def of(counts: Counts, model: str = "m", version: str = "1") -> dict[str, Any]:
    return described(model, version, counts)


def stages(counts: Counts) -> dict[str, tuple[int, int]]:
    return {
        stage: (duration["count"], duration["ns"])
        for stage, duration in of(counts)["inference_stats"].items()
    }


def test_nothing_yet():
    stats = of(ModelStats().save())
    assert stats["last_inference"] == stats["inference_count"] == stats["execution_count"] == 0
    assert stats["batch_stats"] == []
    assert set(map(tuple, stages({}).values())) == {(0, 0)}


def test_answers_are_counted_by_their_inputs_and_their_stages():
    kept = ModelStats()
    with patch("time.time_ns", return_value=1_700_000_000_123_456_789):
        kept.on_answer("m", "1", 200, 0.5, answer(3, decode_s=0.1, queue_s=0.2, forward_s=0.3))
        kept.on_answer("m", "1", 200, 0.25, answer(encode_s=1e-9))
    counts = kept.save()
    assert of(counts)["inference_count"] == 4
    assert of(counts)["last_inference"] == 1_700_000_000_123
    assert stages(counts) == {
        "success": (2, 750_000_000),
        "fail": (0, 0),
        "queue": (2, 200_000_000),
        "compute_input": (2, 100_000_000),
        "compute_infer": (2, 300_000_000),
        "compute_output": (2, 1),
    }


def test_errors_are_failures_also_after_the_models_answer():
    kept = ModelStats()
    kept.on_answer("m", "1", 422, 0.25, None)
    kept.on_answer("m", "1", 400, 0.25, answer())
    counts = kept.save()
    assert stages(counts)["fail"] == (2, 500_000_000)
    assert stages(counts)["success"] == (0, 0)
    assert of(counts)["inference_count"] == 0


def test_batches_are_counted_by_their_size():
    kept = ModelStats()
    kept.on_batch("m", "1", batch(1, 2, forward_s=0.5))
    kept.on_batch("m", "1", batch(1, ValueError(), forward_s=0.25))
    kept.on_batch("m", "1", batch(*range(10), forward_s=1.0))
    stats = of(kept.save())
    assert stats["execution_count"] == 3
    assert [(entry["batch_size"], entry["compute_infer"]) for entry in stats["batch_stats"]] == [
        (2, {"count": 2, "ns": 750_000_000}),
        (10, {"count": 1, "ns": 1_000_000_000}),
    ]


def test_a_batch_of_which_nothing_came_is_no_execution():
    kept = ModelStats()
    kept.on_batch("m", "1", batch(ValueError()))
    kept.on_batch("m", "1", batch(None))
    assert of(kept.save())["execution_count"] == 0


def test_versions_are_counted_apart():
    kept = ModelStats()
    kept.on_answer("m", "1", 200, 0.1, answer())
    kept.on_answer("m", "2", 200, 0.1, answer(2))
    counts = kept.save()
    assert [of(counts, version=v)["inference_count"] for v in "123"] == [1, 2, 0]


def workers(folder: Path, count: int) -> Iterable[ModelStats]:
    return [ModelStats(folder) for _ in range(count)]


def test_workers_add_up(tmp_path: Path):
    first, second = workers(tmp_path, 2)
    with patch("time.time_ns", side_effect=[2_000_000, 1_000_000]):
        first.on_answer("m", "1", 200, 0.1, answer())
        second.on_answer("m", "1", 200, 0.2, answer(2))
    first.on_batch("m", "1", batch(1))
    second.on_batch("m", "1", batch(1))
    second.on_batch("m", "1", batch(1, 2))
    second.save()
    counts = first.of_all_workers()
    assert of(counts)["inference_count"] == 3
    assert of(counts)["execution_count"] == 3
    assert of(counts)["last_inference"] == 2
    assert [entry["batch_size"] for entry in of(counts)["batch_stats"]] == [1, 2]
    assert stages(counts)["success"] == (2, 300_000_000)


def test_counts_never_decrease_whichever_worker_is_asked(tmp_path: Path):
    first, second = workers(tmp_path, 2)
    seen = []
    for kept in (first, second, first, second):
        kept.on_answer("m", "1", 200, 0.1, answer())
        seen.append(of(kept.of_all_workers())["inference_count"])
    assert seen == [1, 2, 3, 4]


def test_what_a_worker_counted_outlives_it(tmp_path: Path):
    old, new = workers(tmp_path, 2)
    old.on_answer("m", "1", 200, 0.1, answer())
    old.save()
    del old
    assert of(new.of_all_workers())["inference_count"] == 1
    assert not list(tmp_path.glob("*.new"))


def test_alone_there_is_nothing_to_add():
    kept = ModelStats()
    kept.on_answer("m", "1", 200, 0.1, answer())
    kept.save()
    assert of(kept.of_all_workers())["inference_count"] == 1


def test_what_is_counted_meanwhile_is_saved_the_next_time(tmp_path: Path):
    kept, other = workers(tmp_path, 2)
    stop = threading.Event()

    def save() -> None:
        while not stop.is_set():
            kept.save()

    thread = threading.Thread(target=save)
    thread.start()
    for version in range(200):
        kept.on_answer("m", str(version), 200, 0.1, answer())
        kept.save()
    stop.set()
    thread.join()
    counts = other.of_all_workers()
    assert [of(counts, version=str(each))["inference_count"] for each in range(200)] == [1] * 200

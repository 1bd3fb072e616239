"""How often each model was asked and what that took, as the Open Inference Protocol tells it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

import json
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from batchserve.batch import Batch
from batchserve.inference import Answer

LAST_MS, INFERENCES, EXECUTIONS = "last_ms", "inferences", "executions"
ANSWERED, FAILED = "answered", "failed"  # requests
# By the protocol's names, how often each stage came, and for how many seconds in all.
STAGES = {
    "success": (ANSWERED, "answered_s"),
    "fail": (FAILED, "failed_s"),
    "queue": (ANSWERED, "queue_s"),
    "compute_input": (ANSWERED, "decode_s"),
    "compute_infer": (ANSWERED, "forward_s"),
    "compute_output": (ANSWERED, "encode_s"),
}
BATCH, BATCH_S = "batch_", "batch_s_"
FILES = "model_stats_*.json"
OK = 200

# By `name:version`, numbers by what they count.
Counts = Mapping[str, Mapping[str, float]]


class ModelStats:
    """Counts what one worker answers; workers add up what they count through files.

    Args:
        folder: where each worker leaves its counts for the others, and where those of workers that
            have ended stay; None: there are no others.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        # A process id may come again.
        self._file_name = FILES.replace("*", f"{os.getpid()}_{secrets.token_hex(4)}")
        self._counts: defaultdict[str, defaultdict[str, float]] = defaultdict(_zeros)
        self._saved: Counts = {}
        self._lock = Lock()

    def on_batch(self, model: str, version: str, batch: Batch) -> None:
        """Count a batch that is over, if anything came of it."""
        if any(_has_row(item.future) for item in batch.items):
            counts = self._counts[f"{model}:{version}"]
            counts[EXECUTIONS] += 1
            counts[f"{BATCH}{len(batch)}"] += 1
            counts[f"{BATCH_S}{len(batch)}"] += batch.forward_s

    def on_answer(
        self, model: str, version: str, code: int, seconds: float, answer: Answer | None
    ) -> None:
        """Count an answered request; `answer` is the model's, if it gave one."""
        counts = self._counts[f"{model}:{version}"]
        counts[LAST_MS] = time.time_ns() // 1_000_000
        if answer is None or code != OK:
            counts[FAILED] += 1
            counts["failed_s"] += seconds
            return
        counts[INFERENCES] += len(answer.outputs)
        counts[ANSWERED] += 1
        counts["answered_s"] += seconds
        counts["queue_s"] += answer.queue_s
        counts["decode_s"] += answer.decode_s
        counts["forward_s"] += answer.forward_s
        counts["encode_s"] += answer.encode_s

    def save(self) -> Counts:
        """Leave this worker's counts for the others, and return them. For a thread."""
        with self._lock:
            # Each copy is made at once, while the event loop goes on counting.
            counted = {version: dict(counts) for version, counts in list(self._counts.items())}
            if self._folder is not None and counted != self._saved:
                file = self._folder / self._file_name
                new = file.with_suffix(".new")
                new.write_text(json.dumps(counted), encoding="ascii")
                new.replace(file)
                self._saved = counted
            return counted

    def of_all_workers(self) -> Counts:
        """Return the counts of all workers together. For a thread.

        They never decrease, whichever worker is asked.
        """
        total: defaultdict[str, defaultdict[str, float]] = defaultdict(_zeros)
        for counts in (self.save(), *self._of_others()):
            for version, numbers in counts.items():
                last_ms = max(total[version][LAST_MS], numbers.get(LAST_MS, 0))
                for what, number in numbers.items():
                    total[version][what] += number
                total[version][LAST_MS] = last_ms
        return total

    def _of_others(self) -> Iterator[Counts]:
        if self._folder is None:
            return
        for file in self._folder.glob(FILES):
            if file.name != self._file_name:
                yield json.loads(file.read_text(encoding="ascii"))


def described(model: str, version: str, counts: Counts) -> dict[str, Any]:
    """Return the protocol's statistics of one version."""
    numbers = counts.get(f"{model}:{version}", {})
    return {
        "name": model,
        "version": version,
        "last_inference": numbers.get(LAST_MS, 0),
        "inference_count": numbers.get(INFERENCES, 0),
        "execution_count": numbers.get(EXECUTIONS, 0),
        "inference_stats": {
            stage: _duration(numbers, count, seconds) for stage, (count, seconds) in STAGES.items()
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": {"count": numbers[f"{BATCH}{size}"], "ns": 0},
                "compute_infer": _duration(numbers, f"{BATCH}{size}", f"{BATCH_S}{size}"),
                "compute_output": {"count": numbers[f"{BATCH}{size}"], "ns": 0},
            }
            for size in _sizes(numbers)
        ],
    }


def _has_row(future: Any) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _duration(numbers: Mapping[str, float], count: str, seconds: str) -> dict[str, int]:
    return {
        "count": round(numbers.get(count, 0)),
        "ns": round(1e9 * numbers.get(seconds, 0)),
    }


def _sizes(numbers: Mapping[str, float]) -> list[int]:
    stated = (name.removeprefix(BATCH) for name in numbers if name.startswith(BATCH))
    return sorted(int(size) for size in stated if size.isdecimal())


def _zeros() -> defaultdict[str, float]:
    return defaultdict(int)

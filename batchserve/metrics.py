"""Every metric once: its name, its help, its buckets. Prometheus naming: base units, `_total`.

With several workers, Prometheus's multiprocess mode adds them up: PROMETHEUS_MULTIPROC_DIR must be
in the environment before this module is imported.
"""

import os
from collections import Counter as Tally
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.samples import Sample

from batchserve.batch import Batch, Fault
from batchserve.errors import DeadlineExceeded, Overloaded, QueueFull

# Without the times at which series began, which would double their number.
disable_created_metrics()  # type: ignore[no-untyped-call]

MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 10, 30),
)
DIFFERENCES = (0, 1e-7, 1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 1, 10, 100)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MODEL = ("model", "version")


# How much is gathered before it is counted: counting a value alone costs five times as much, and
# counting more would hold up the event loop.
GATHERED = 128


class Answered(NamedTuple):
    """A request that was answered; `decode_s` is None if its inputs were not decoded."""

    model: str
    version: str
    code: int
    seconds: float
    decode_s: float | None


class Computed(NamedTuple):
    """A batch that was computed."""

    model: str
    version: str
    size: int
    reason: str
    forward_s: float
    queue_s: list[float]


class BulkHistogram(Histogram):
    """A histogram that takes many values at once."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe each, with one addition to every bucket."""
        # The first bucket whose bound is not below the value, as `observe` has it.
        places = np.searchsorted(self._upper_bounds, values, side="left")
        for place, count in enumerate(np.bincount(places).tolist()):
            if count:
                self._buckets[place].inc(count)
        self._sum.inc(float(np.sum(values)))


class Metrics:
    """The metrics of one process. Bounded labels only: models, codes and reasons of our own.

    What happens with each request is gathered, and counted when enough has been, or somebody asks.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        # Their appends and pops need no lock.
        self._answered: deque[Answered] = deque()
        self._computed: deque[Computed] = deque()
        self._counting = Lock()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"batchserve_{name}", text, (*MODEL, *labels), registry=registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], *labels: str
        ) -> BulkHistogram:
            return BulkHistogram(
                f"batchserve_{name}", text, (*MODEL, *labels), registry=registry, buckets=buckets
            )

        def gauge(
            name: str, text: str, of_all: Literal["livesum", "livemax", "max"], *labels: str
        ) -> Gauge:
            return Gauge(
                f"batchserve_{name}", text, (*MODEL, *labels), registry=registry,
                multiprocess_mode=of_all,
            )  # fmt: skip

        self.requests = counter("requests_total", "Requests answered, by HTTP status.", "code")
        self.request_seconds = histogram(
            "request_seconds", "From the request's head to its answer.", SECONDS
        )
        self.items = counter("items_total", "Inputs that went through a forward pass.")
        self.decode_seconds = histogram(
            "decode_seconds", "Decoding the inputs of a request.", SECONDS
        )
        self.queue_seconds = histogram(
            "queue_seconds", "What an item waited for its batch.", SECONDS
        )
        self.forward_seconds = histogram("forward_seconds", "One forward pass of a batch.", SECONDS)
        self.batch_size = histogram("batch_size", "Items in a forward pass.", SIZES)
        self.batches = counter(
            "batches_total",
            "Batches, by why they were closed.",
            "reason",
        )
        self.faults = counter(
            "faults_total", "What went wrong with a forward pass, and was contained.", "kind"
        )
        self.queue_items = gauge("queue_items", "Items that wait for a forward pass.", "livesum")
        self.in_flight_items = gauge("in_flight_items", "Items in a forward pass.", "livesum")
        self.passes_at_once = gauge(
            "passes_at_once", "How many forward passes the workers run at the same time.", "livesum"
        )
        self.backlog_seconds = gauge(
            "backlog_seconds",
            "What computing all that waits will take, in the worker where it is most.",
            "livemax",
        )
        self.rejected = counter(
            "rejected_total", "Requests that were not computed, by the error's code.", "reason"
        )
        self.slo_seconds = gauge("slo_seconds", "The promise; of models that make one.", "livemax")
        self.serving = Gauge(
            "batchserve_workers",
            "Processes that serve.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.defaults = counter(
            "defaults_total",
            "Requests answered with an endpoint's default output, by the error's code.",
            "endpoint",
            "reason",
        )

        self.fallbacks = counter(
            "canary_fallbacks_total",
            "Requests of a candidate's share that the current version answered, by the code of "
            "what the candidate had instead of an answer.",
            "reason",
        )
        self.shadow_requests = counter(
            "shadow_requests_total",
            "Copies of requests put to a candidate, by what came of them.",
            *("current", "outcome"),
        )
        self.shadow_items = counter(
            "shadow_items_total",
            "Inputs that a candidate was compared on, by how alike the rows were.",
            *("current", "likeness"),
        )
        self.shadow_difference = histogram(
            "shadow_difference", "The largest between two numbers of two rows.", DIFFERENCES,
            "current",
        )  # fmt: skip
        self.shadow_max_difference = gauge(
            "shadow_max_difference", "The largest of them ever.", "max", "current"
        )
        self.shadow_forward_seconds = histogram(
            "shadow_forward_seconds", "The forward passes of both.", SECONDS, "current", "whose"
        )
        self._most_apart: dict[tuple[str, str, str], float] = {}

    def introduce(self, model: str, version: str, slo_ms: float | None) -> None:
        """Begin a version's series at 0: of one that begins at 1, rates do not see the first."""
        for fault in Fault:
            self.faults.labels(model, version, fault)
        for error in (QueueFull, Overloaded, DeadlineExceeded):
            self.rejected.labels(model, version, error.code)
        if slo_ms is not None:
            self.slo_seconds.labels(model, version).set(slo_ms / 1000)

    def on_batch(self, model: str, version: str, batch: Batch) -> None:
        """Count a batch after its forward pass."""
        waits_s = [batch.formed_s - item.queued_s for item in batch.items]
        self._computed.append(
            Computed(model, version, len(waits_s), batch.reason, batch.forward_s, waits_s)
        )
        if len(self._computed) >= GATHERED:
            self._count_unless_busy()

    def on_answer(
        self, model: str, version: str, code: int, seconds: float, decode_s: float | None = None
    ) -> None:
        """Count an answered request."""
        self._answered.append(Answered(model, version, code, seconds, decode_s))
        if len(self._answered) >= GATHERED:
            self._count_unless_busy()

    def count(self) -> None:
        """Count what has been gathered."""
        with self._counting:
            self._count_gathered()

    def _count_unless_busy(self) -> None:
        # The event loop does not wait for a thread that counts.
        if self._counting.acquire(blocking=False):
            try:
                self._count_gathered()
            finally:
                self._counting.release()

    def _count_gathered(self) -> None:
        self._count_answers(_taken(self._answered))
        self._count_batches(_taken(self._computed))

    def _count_answers(self, answers: Sequence[Answered]) -> None:
        codes = Tally((one.model, one.version, str(one.code)) for one in answers)
        for code, count in codes.items():
            self.requests.labels(*code).inc(count)
        for labels, same in _by_version(answers).items():
            self.request_seconds.labels(*labels).observe_all([one.seconds for one in same])
            decodings = [one.decode_s for one in same if one.decode_s is not None]
            if decodings:
                self.decode_seconds.labels(*labels).observe_all(decodings)

    def _count_batches(self, batches: Sequence[Computed]) -> None:
        reasons = Tally((one.model, one.version, one.reason) for one in batches)
        for reason, count in reasons.items():
            self.batches.labels(*reason).inc(count)
        for labels, same in _by_version(batches).items():
            self.items.labels(*labels).inc(sum(one.size for one in same))
            self.batch_size.labels(*labels).observe_all([one.size for one in same])
            self.forward_seconds.labels(*labels).observe_all([one.forward_s for one in same])
            waits_s = [wait_s for one in same for wait_s in one.queue_s]
            self.queue_seconds.labels(*labels).observe_all(waits_s)

    def on_fault(self, model: str, version: str, fault: Fault) -> None:
        """Count a fault."""
        self.faults.labels(model, version, fault).inc()

    def on_likeness(
        self, labels: tuple[str, str, str], kind: str, difference: float | None
    ) -> None:
        """Count an input that a candidate was compared on.

        Args:
            labels: the model, the candidate, and the version that it is compared with.
            kind: of likeness.
            difference: the largest between two numbers; None: the rows cannot be compared.
        """
        self.shadow_items.labels(*labels, kind).inc()
        if difference is not None:
            self.shadow_difference.labels(*labels).observe(difference)
            most = max(difference, self._most_apart.get(labels, 0.0))
            self._most_apart[labels] = most
            self.shadow_max_difference.labels(*labels).set(most)

    def sample(
        self,
        model: str,
        version: str,
        queued: int,
        in_flight: int,
        backlog_s: float,
        at_once: int,
    ) -> None:
        """Set the gauges of one version."""
        self.queue_items.labels(model, version).set(queued)
        self.in_flight_items.labels(model, version).set(in_flight)
        self.backlog_seconds.labels(model, version).set(backlog_s)
        self.passes_at_once.labels(model, version).set(at_once)

    def exposition(self) -> bytes:
        """Return the text format: of all workers where there are several, of this process else."""
        self.count()
        return generate_latest(self._registry_of_all())

    def readings(self) -> Iterator[Sample]:
        """Yield every value, likewise."""
        self.count()
        for family in self._registry_of_all().collect():
            yield from family.samples

    def _registry_of_all(self) -> Any:
        if MULTIPROC_DIR not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


def _taken(gathered: deque[Any]) -> list[Any]:
    """Take what is there now, while others may add to it."""
    return [gathered.popleft() for _ in range(len(gathered))]


def _by_version(gathered: Sequence[Any]) -> dict[tuple[str, str], list[Any]]:
    versions: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for one in gathered:
        versions[one.model, one.version].append(one)
    return versions

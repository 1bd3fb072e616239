"""Every metric once: its name, its help, its buckets. Prometheus naming: base units, `_total`.

With several workers, Prometheus's multiprocess mode adds them up: PROMETHEUS_MULTIPROC_DIR must be
in the environment before this module is imported.
"""

import os
from collections.abc import Iterator
from typing import Any, Literal

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


class Metrics:
    """The metrics of one process. Bounded labels only: models, codes and reasons of our own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"batchserve_{name}", text, (*MODEL, *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
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
        labels = (model, version)
        self.items.labels(*labels).inc(len(batch))
        self.batch_size.labels(*labels).observe(len(batch))
        self.batches.labels(*labels, batch.reason).inc()
        self.forward_seconds.labels(*labels).observe(batch.forward_s)
        queue_seconds = self.queue_seconds.labels(*labels)
        for item in batch.items:
            queue_seconds.observe(batch.formed_s - item.queued_s)

    def on_answer(self, model: str, version: str, code: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests.labels(model, version, str(code)).inc()
        self.request_seconds.labels(model, version).observe(seconds)

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
        self, model: str, version: str, queued: int, in_flight: int, backlog_s: float
    ) -> None:
        """Set the gauges of one version."""
        self.queue_items.labels(model, version).set(queued)
        self.in_flight_items.labels(model, version).set(in_flight)
        self.backlog_seconds.labels(model, version).set(backlog_s)

    def exposition(self) -> bytes:
        """Return the text format: of all workers where there are several, of this process else."""
        return generate_latest(self._registry_of_all())

    def readings(self) -> Iterator[Sample]:
        """Yield every value, likewise."""
        for family in self._registry_of_all().collect():
            yield from family.samples

    def _registry_of_all(self) -> Any:
        if MULTIPROC_DIR not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

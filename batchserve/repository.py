"""The model repository: names, versions, and what state each is in."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchserve.batch import Batch, Fault
from batchserve.batching.batcher import Batcher
from batchserve.batching.configured import scheduler_for
from batchserve.config import ModelConfig
from batchserve.errors import Draining, LoadError, NotFound, NotReady
from batchserve.loading import DTYPES, largest_batch, load_module, pick_device, place_module
from batchserve.runners.forward import Forward
from batchserve.runners.reproducible import is_reproducible
from batchserve.runners.warmup import MOST, choose_runner, warm_up
from batchserve.tasks import build_task
from batchserve.tasks.base import Task
from batchserve.tasks.tensors import TensorSpec, specs_of
from batchserve.urls import shown

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# How much slower per item the largest batch must be than the best one. Machines are noisy.
WORTH_A_WORD = 1.5
# Who comes during a pass waits for its end, and for one of their own.
ROOM_FOR_PASSES = 2
# What max_batch_size is where neither the config nor a measurement says.
UNMEASURED = 16

OnBatch = Callable[["ModelVersion", Batch], None]
OnFault = Callable[["ModelVersion", Fault], None]


class State(StrEnum):
    """The life of a version."""

    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class ModelVersion:
    """One version of one model. Once ready, it owns a task, a batcher and a runner."""

    task: Task
    batcher: Batcher
    device: str
    forward_s: dict[int, float]  # seconds by batch size, at warm-up
    outputs: tuple[TensorSpec, ...] = ()  # of the example; empty: there is none

    def __init__(
        self, config: ModelConfig, hang_s: float = math.inf, threads: int | None = None
    ) -> None:
        self.config = config
        self._hang_s = hang_s
        self._threads = threads
        self.name = config.name
        self.version = config.version
        self.state = State.LOADING
        self._most = MOST

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self.state is State.READY and self.batcher.running

    @property
    def loaded(self) -> bool:
        """Whether it has its task, batcher and runner."""
        return self.state in (State.READY, State.DRAINING)

    @property
    def lost(self) -> str | None:
        """Why only another process can help: the device has failed, or a pass hangs."""
        return self.batcher.lost if self.loaded else None

    @property
    def condition(self) -> str:
        """The state in words, for an operator."""
        return f"lost: {self.lost}" if self.lost else str(self.state)

    def check_ready(self) -> None:
        """Raise if a request cannot be answered now.

        Raises:
            Draining: the server is shutting down.
            NotReady: it is loading, or broken.
        """
        if self.state is State.DRAINING:
            raise Draining("the server is shutting down; another one will answer")
        if not self.ready:
            raise NotReady(f"model {self.name!r} version {self.version!r} is {self.condition}")

    @property
    def max_batch_size(self) -> int:
        """N in use: as stated, as found at warm-up, or as the memory allows."""
        if self.forward_s:
            return max(self.forward_s)
        batching = self.config.batching
        return batching.max_batch_size or min(UNMEASURED, batching.max_queue_size, self._most)

    @property
    def summary(self) -> str:
        """What is served and how, in a line."""
        batching = self.config.batching
        return (
            f"{self.name}:{self.version} serving on {self.device} in {self.config.precision}, "
            f"forward pass {self.batcher.runner.name}, batches of up to {self.max_batch_size} "
            f"({batching.policy}, {batching.max_wait_ms:g} ms)"
        )

    async def load(
        self, on_batch: OnBatch, on_fault: OnFault = lambda _model, _fault: None
    ) -> None:
        """Load, warm up and start batching.

        Raises:
            LoadError: it cannot be loaded, or fails on its own task's example.
        """
        try:
            forward = await asyncio.to_thread(self._load)
            self.state = State.WARMING
            self.forward_s = await asyncio.to_thread(self._warm_up, forward)
            self.batcher = await self._start(forward, on_batch, on_fault)
        except Exception:
            self.state = State.FAILED
            raise
        self.state = State.READY

    def drain(self) -> None:
        """Admit nothing more; what was admitted is still answered."""
        if self.state is State.READY:
            self.state = State.DRAINING
            self.batcher.drain()

    async def close(self) -> None:
        if self.loaded:
            self.state = State.DRAINING
            await self.batcher.close()

    def __repr__(self) -> str:
        return f"<ModelVersion {self.name}:{self.version} | {self.state}>"

    def _load(self) -> Forward:
        module = load_module(self.config)
        self._most = largest_batch(module) or MOST
        self.task = build_task(self.config, module)
        device = pick_device(self.config.device)
        self.device = str(device)
        module = place_module(module, self.config, device)
        pad_to = self.config.batching.max_batch_size if self.config.reproducible else None
        return Forward(
            module, self.task, device, DTYPES[self.config.precision], pad_to, self._threads
        )

    def _warm_up(self, forward: Forward) -> dict[int, float]:
        example = self.task.example()
        if example is None:
            self._do_without_example()
            return {}
        batching = self.config.batching
        most = min(self._most, batching.max_queue_size)
        try:
            seconds = warm_up(forward, example, batching.max_batch_size, self._log_size, most)
            self._try_encoding(forward([example])[0])
            if self.config.reproducible:
                self._verify_reproducible(forward, example, max(seconds))
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(
                f"model {self.name}: a forward pass on {example.dtype} of shape "
                f"{list(example.shape)} failed: {type(error).__name__}: {error}"
            ) from error
        self._advise(seconds)
        self._check_promise(seconds)
        return seconds

    def _do_without_example(self) -> None:
        advice = (
            "set input_shape, as in [3, 224, 224]"
            if self.config.task == "tensor"
            else f"let {self.config.task} have a method example()"
        )
        if self.config.reproducible:
            raise LoadError(
                f"model {self.name}: reproducible: true cannot be verified, because nothing "
                f"tells the shape of an input: {advice}"
            )
        logger.warning(
            "%s:%s is not warmed up, because nothing tells the shape of an input: %s",
            *(self.name, self.version, advice),
        )

    def _try_encoding(self, row: Any) -> None:
        if isinstance(row, Exception):
            raise row
        self.task.encode(row, self.task.Parameters())
        self.outputs = specs_of(row, fixed=self.task.fixed_shape)

    def _verify_reproducible(self, forward: Forward, example: "torch.Tensor", size: int) -> None:
        if not is_reproducible(forward, example, size):
            raise LoadError(
                f"model {self.name}: reproducible: true cannot be kept here: even in batches of "
                f"always {size}, an answer depends on its place or its neighbours; try a power of "
                f"two as batching.max_batch_size, server.torch_threads: 1, and on a CPU the "
                f"environment variable MKL_CBWR=AUTO,STRICT"
            )

    def _advise(self, seconds: dict[int, float]) -> None:
        largest = max(seconds)
        stated = self.config.batching.max_batch_size
        if stated is not None and largest < stated:
            logger.warning(
                "%s:%s: the memory does not suffice for max_batch_size: %d; %d is used",
                *(self.name, self.version, stated, largest),
            )
        best = min(seconds, key=lambda size: seconds[size] / size)
        ratio = seconds[largest] / largest / (seconds[best] / best)
        # An adaptive policy keeps to the best by itself.
        if ratio > WORTH_A_WORD and self.config.batching.policy == "fixed":
            logger.warning(
                "%s:%s: a batch of %d took %.1f times as long per item as one of %d; "
                "max_batch_size: %d may be faster here",
                *(self.name, self.version, largest, ratio, best, best),
            )

    def _check_promise(self, seconds: dict[int, float]) -> None:
        slo_ms, alone_ms = self.config.slo_ms, 1000 * min(seconds.values())
        if slo_ms is not None and slo_ms < ROOM_FOR_PASSES * alone_ms:
            logger.warning(
                "%s:%s: slo_ms: %g leaves no room for a wait: one forward pass takes %.1f ms, and "
                "whoever comes during one waits for two; most requests may be refused",
                *(self.name, self.version, slo_ms, alone_ms),
            )

    def _log_size(self, size: int, seconds: float) -> None:
        stated = self.config.batching.max_batch_size
        logger.info(
            "%s:%s warm-up: batch of %2d%s in %.1f ms",
            self.name,
            self.version,
            size,
            "" if stated is None else f" of {stated}",
            1000 * seconds,
        )

    async def _start(self, forward: Forward, on_batch: OnBatch, on_fault: OnFault) -> Batcher:
        size = self.max_batch_size
        full_batch_s = self.forward_s.get(size, 0.0)
        # A pass that may cost more than the example's is safe on a thread only.
        example = self.task.example() if self.task.fixed_shape else None
        runner = await choose_runner(forward, example, full_batch_s, size)
        batcher = Batcher(
            f"{self.name}:{self.version}",
            scheduler_for(self.config, size, self.forward_s),
            runner,
            self.task.bucket_key,
            on_batch=lambda batch: on_batch(self, batch),
            on_fault=lambda fault: on_fault(self, fault),
            hang_s=self._hang_s,
        )
        batcher.start()
        return batcher


class ModelRepository:
    """All versions of all models, in the order of the config.

    Args:
        configs: the first one answers where no model is named; of several versions of one model,
            the first answers where no version is named.
        on_batch: called with each version's batches.
        on_fault: called with what went wrong with one.
        hang_s: a forward pass that takes longer never returns.
        threads: cores that a forward pass may use; None: as many as torch is told to.
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        on_batch: OnBatch = lambda _model, _batch: None,
        on_fault: OnFault = lambda _model, _fault: None,
        hang_s: float = math.inf,
        threads: int | None = None,
    ) -> None:
        self.versions = [ModelVersion(config, hang_s, threads) for config in configs]
        self._on_batch, self._on_fault = on_batch, on_fault

    async def load(self) -> None:
        """Load every version, one after the other.

        Raises:
            LoadError: the first that failed.
        """
        for version in self.versions:
            started_s = time.monotonic()
            logger.info(
                "%s:%s loading %s", version.name, version.version, shown(version.config.source)
            )
            await version.load(self._on_batch, self._on_fault)
            logger.info(
                "%s:%s ready after %.1f s",
                version.name,
                version.version,
                time.monotonic() - started_s,
            )

    @property
    def ready(self) -> bool:
        return all(version.ready for version in self.versions)

    @property
    def lost(self) -> str:
        """Which versions are lost for good, and why; empty if none is."""
        return "; ".join(
            f"{version.name}:{version.version} is lost: {version.lost}"
            for version in self.versions
            if version.lost is not None
        )

    def find(self, name: str | None = None, version: str | None = None) -> ModelVersion:
        """Return the version that shall answer.

        Raises:
            NotFound: there is no such model or version; the message lists what there is.
        """
        named = [found for found in self.versions if name in (None, found.name)]
        if not named:
            names = sorted({found.name for found in self.versions})
            raise NotFound(f"there is no model {name!r}; served are {', '.join(names)}")
        matching = [found for found in named if version in (None, found.version)]
        if not matching:
            versions = ", ".join(found.version for found in named)
            raise NotFound(f"model {name!r} has no version {version!r}; it has {versions}")
        return matching[0]

    def drain(self) -> None:
        for version in self.versions:
            version.drain()

    async def close(self) -> None:
        for version in self.versions:
            await version.close()

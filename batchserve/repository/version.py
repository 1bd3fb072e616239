"""One version of one model, from loading to the last request that it answers."""

import asyncio
import logging
import math
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Literal

from batchserve.batch import Batch, Fault
from batchserve.batching.batcher import Batcher
from batchserve.batching.configured import scheduler_for
from batchserve.config import ModelConfig
from batchserve.errors import Draining, LoadError, NotReady
from batchserve.loading import (
    DTYPES,
    has_convolutions,
    largest_batch,
    load_module,
    pick_device,
    place_module,
)
from batchserve.memory import release_freed
from batchserve.own_thread import in_own_thread
from batchserve.repository.warming import warm
from batchserve.runners.device import give_memory_back
from batchserve.runners.folding import fold_batch_norms
from batchserve.runners.forward import Forward
from batchserve.runners.warmup import MOST, choose_runner
from batchserve.tasks import build_task
from batchserve.tasks.base import Task
from batchserve.tasks.tensors import TensorSpec, specs_of
from batchserve.urls import shown

logger = logging.getLogger(__name__)

# What max_batch_size is where neither the config nor a measurement says.
UNMEASURED = 16
# How long a runner's thread may take to let go of the model.
LOOKS, LOOK_S = 20, 0.05

OnBatch = Callable[["ModelVersion", Batch], None]
OnFault = Callable[["ModelVersion", Fault], None]


class State(StrEnum):
    """The life of a version."""

    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a version has come on its way to ready.

    Attributes:
        done: bytes; or, in the warm-up, the batch sizes that have been tried.
        of: so many; None: nobody knows yet.
    """

    stage: Literal["downloading", "loading", "warm-up"]
    done: int = 0
    of: int | None = None

    def __str__(self) -> str:
        if self.of is None:
            return f"{self.stage}, {self.done} done" if self.done else self.stage
        return f"{self.stage}, {self.done} of {self.of}"


class ModelVersion:
    """One version of one model. Once ready, it owns a task, a batcher and a runner.

    Args:
        config: where it comes from and how it is run.
        hang_s: a forward pass that takes longer never returns.
        serial: tells apart what was loaded at different times under one name and version.
        threads: cores that a forward pass may use; None: as many as torch is told to.
    """

    task: Task
    batcher: Batcher
    device: str
    forward_s: dict[int, float]  # seconds by batch size, at warm-up
    outputs: tuple[TensorSpec, ...] = ()  # of the example; empty: there is none

    def __init__(
        self,
        config: ModelConfig,
        hang_s: float = math.inf,
        serial: int = 0,
        threads: int | None = None,
    ) -> None:
        self.config = config
        self._hang_s = hang_s
        self._threads = threads
        self._most = MOST  # items in a batch, however much would pay
        self.name = config.name
        self.version = config.version
        self.serial = serial
        self.state = State.LOADING
        self.progress: Progress | None = Progress("loading")
        self.error: str | None = None  # why it has failed
        self.loaded = False  # it has its task, batcher and runner
        self._module: weakref.ref[Any] | None = None

    @property
    def key(self) -> str:
        return self.config.key

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self.state is State.READY and self.batcher.running

    @property
    def lost(self) -> str | None:
        """Why only another process can help: the device has failed, or a pass hangs."""
        return self.batcher.lost if self.loaded else None

    @property
    def condition(self) -> str:
        """The state in words, for an operator."""
        if self.lost:
            return f"lost: {self.lost}"
        if self.state is State.FAILED and self.error:
            return f"failed: {self.error}"
        return str(self.progress or self.state)

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
            f"{self.key} serving on {self.device} in {self.config.precision}, "
            f"forward pass {self.batcher.runner.name}, batches of up to {self.max_batch_size} "
            f"({batching.policy}, {batching.max_wait_ms:g} ms)"
        )

    async def load(
        self, on_batch: OnBatch, on_fault: OnFault = lambda _model, _fault: None
    ) -> None:
        """Load, warm up and start batching; if it is retired meanwhile, stop at the next step.

        Raises:
            LoadError: it cannot be loaded, or fails on its own task's example.
        """
        started_s = time.monotonic()
        logger.info("%s loading %s", self.key, shown(self.config.source))
        try:
            forward = await in_own_thread(self._load, "load")
            if self._moved_on(State.LOADING, State.WARMING):
                self.forward_s = await in_own_thread(partial(self._warm_up, forward), "warm-up")
            if self.state is State.WARMING:
                self.batcher = await self._start(forward, on_batch, on_fault)
                self.loaded = True
        except LoadError as error:
            self.fail(str(error))
            raise
        except Exception as error:
            logger.exception("%s cannot be loaded", self.key)
            self.fail(f"model {self.name}: {type(error).__name__}: {error}")
            raise LoadError(f"{self.error}; the log has the traceback") from error
        self.progress = None
        if self._moved_on(State.WARMING, State.READY):
            logger.info("%s ready after %.1f s", self.key, time.monotonic() - started_s)
        else:
            await self.close()

    def fail(self, reason: str) -> None:
        """It will not become ready."""
        self.state, self.error, self.progress = State.FAILED, reason, None

    def drain(self) -> None:
        """Admit nothing more; what was admitted is still answered."""
        if self.state in (State.LOADING, State.WARMING, State.READY):
            self.state = State.DRAINING
        if self.loaded:
            self.batcher.drain()

    async def close(self) -> None:
        self.drain()
        if self.loaded:
            await self.batcher.close()

    async def retire(self, within_s: float) -> None:
        """Finish what was admitted, then give the memory back.

        Args:
            within_s: whoever is not answered by then gets `Draining`.
        """
        self.drain()
        try:
            if self.loaded:
                with suppress(TimeoutError):
                    async with asyncio.timeout(within_s):
                        await self.batcher.wait_empty()
        finally:
            await self.close()
        await self._give_memory_back()

    def __repr__(self) -> str:
        return f"<ModelVersion {self.key} | {self.state}>"

    def _moved_on(self, before: State, after: State) -> bool:
        if self.state is before:
            self.state = after
            return True
        return False

    def _load(self) -> Forward:
        def show(done: int, of: int | None) -> None:
            self.progress = Progress("downloading", done, of)

        module = load_module(self.config, show)
        self.progress = Progress("loading")
        self.task = build_task(self.config, module)
        if self.config.fold_batch_norms:
            folded = fold_batch_norms(module, self.task, self._threads)
            if folded is not None:
                logger.info("%s batch norms: %s", self.config.key, folded)
        device = pick_device(self.config.device)
        self.device = str(device)
        module = place_module(module, self.config, device)
        self._module = weakref.ref(module)
        self._most = largest_batch(module) or MOST
        self._may_choose_layout = (
            self.config.channels_last is None
            and not self.config.reproducible
            and has_convolutions(module)
        )
        pad_to = self.config.batching.max_batch_size if self.config.reproducible else None
        dtype = DTYPES[self.config.precision]
        return Forward(
            module, self.task, device, dtype, pad_to, self._threads,
            channels_last=bool(self.config.channels_last),
        )  # fmt: skip

    def _warm_up(self, forward: Forward) -> dict[int, float]:
        def show(done: int, of: int | None) -> None:
            self.progress = Progress("warm-up", done, of)

        seconds, row = warm(
            self.config, self.task, forward, self._most, show,
            may_choose_layout=self._may_choose_layout,
        )  # fmt: skip
        release_freed()
        if row is not None:
            self.outputs = specs_of(row, fixed=self.task.fixed_shape)
        return seconds

    async def _start(self, forward: Forward, on_batch: OnBatch, on_fault: OnFault) -> Batcher:
        size = self.max_batch_size
        full_batch_s = self.forward_s.get(size, 0.0)
        # A pass that may cost more than the example's is safe on a thread only.
        example = self.task.example() if self.task.fixed_shape else None
        runner = await choose_runner(forward, example, full_batch_s, size)
        batcher = Batcher(
            self.key,
            scheduler_for(self.config, size, self.forward_s, streams=runner.streams),
            runner,
            self.task.bucket_key,
            on_batch=lambda batch: on_batch(self, batch),
            on_fault=lambda fault: on_fault(self, fault),
            hang_s=self._hang_s,
        )
        batcher.start()
        return batcher

    async def _give_memory_back(self) -> None:
        if self._module is None:
            return
        for _ in range(LOOKS):
            if self._module() is None:
                break
            await asyncio.sleep(LOOK_S)
        # Collecting what only cycles hold keeps the loop waiting, and is rarely needed.
        if self._module() is not None or self.device != "cpu":
            await asyncio.to_thread(give_memory_back, pick_device(self.device))

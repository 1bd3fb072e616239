"""A model, made ready in several ways beside each other: to be timed, and asked the same."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import torch

from batchserve.config import ModelConfig
from batchserve.errors import InvalidInput, LoadError, TooLarge
from batchserve.loading import (
    DTYPES,
    has_compiler,
    has_convolutions,
    largest_batch,
    load_module,
    pick_device,
    place_module,
    torchscript,
)
from batchserve.loading.program import Program
from batchserve.loading.quantize import bytes_of, is_linear
from batchserve.runners.at_once import AtOnce
from batchserve.runners.base import OutOfMemory
from batchserve.runners.comparison import largest_difference, largest_number
from batchserve.runners.difference import Difference
from batchserve.runners.folding import fold_batch_norms
from batchserve.runners.forward import Forward
from batchserve.runners.reproducible import like
from batchserve.runners.thread_safety import (
    NotSafe,
    are_known,
    check_thread_safety,
    may_run_at_once,
)
from batchserve.samples import as_jpeg, drawn_jpeg, find_photos, mirrored
from batchserve.tasks import build_task
from batchserve.tasks.base import Task
from batchserve.tasks.kinds import input_of

ITEMS = 8
# A cell of a few microseconds is measured for so long.
LEAST_S, MOST_PASSES = 0.02, 200


class Subject:
    """A model as it is loaded, from which candidates are made.

    Args:
        config: of the model.

    Attributes:
        items: inputs to ask all candidates about, no two of them alike where that can be had.
        device: where candidates run.

    Raises:
        LoadError: it cannot be loaded, or nothing tells the shape of an input.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._module = load_module(config)
        self._task = build_task(config, self._module)
        if config.fold_batch_norms:
            with _interruptible():
                fold_batch_norms(self._module, self._task)
        self.device = pick_device(config.device)
        self.items = items_for(self._task)
        if not self.items:
            raise LoadError(
                f"model {config.name}: nothing tells the shape of an input, so passes cannot be "
                f"measured; set input_shape, as in [3, 224, 224], or let the task have a method "
                f"example()"
            )

    @property
    def has_convolutions(self) -> bool:
        return has_convolutions(self._module)

    @property
    def has_linears(self) -> bool:
        """Whether there is something to quantise."""
        return not self._is_graph and any(map(is_linear, self._module.modules()))

    @property
    def has_fixed_precision(self) -> bool:
        if isinstance(self._module, torch.jit.ScriptModule):
            return bool(torchscript.constant_dtypes(self._module))
        return isinstance(self._module, Program)

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def can_be_compiled(self) -> bool:
        if isinstance(self._module, torch.jit.ScriptModule):
            return True
        return not self._is_graph and has_compiler()

    @property
    def needs_compiler(self) -> bool:
        """Whether compiling is `torch.compile`'s, which takes its time and is kept in a cache."""
        return not self._is_graph

    @property
    def largest_batch(self) -> int | None:
        """What a program allows; None: anything."""
        return largest_batch(self._module)

    def make(self, config: ModelConfig, threads: int) -> "Candidate":
        """Make the model ready as a config says, which differs in how it is run only.

        Raises:
            LoadError: its kind does not allow that.
        """
        at_once = self.runs_at_once and threads > 1
        forward = self._forward(config, threads)
        forward.compile_what_comes()
        is_scores = input_of(self._task)["kind"] == "image" and self._task.finite_rows
        return Candidate(
            forward,
            self.items,
            bytes_=bytes_of(forward.module),
            is_scores=is_scores or self._task.labels is not None,
            at_once=at_once,
            most=self.largest_batch or ITEMS,
        )

    @cached_property
    def runs_at_once(self) -> bool:
        """Whether several passes may run at the same time."""
        forward = self._forward(self._config.model_copy(update={"compile": False}), threads=2)
        wanted = self._config.parallel_batches
        if wanted is None:
            wanted = are_known(self._module, self._task)
        if not (wanted and may_run_at_once(forward)):
            return False
        try:
            with _interruptible():
                check_thread_safety(forward, self.items[: max(2, self.largest_batch or ITEMS)])
        except (NotSafe, OutOfMemory):
            return False
        return True

    def _forward(self, config: ModelConfig, threads: int) -> Forward:
        return Forward(
            place_module(self._another(), config, self.device),
            self._task,
            self.device,
            DTYPES[config.precision],
            threads=threads,
            channels_last=bool(config.channels_last),
        )

    @property
    def _is_graph(self) -> bool:
        return isinstance(self._module, Program | torch.jit.ScriptModule)

    def _another(self) -> torch.nn.Module:
        # The weights of anything else may be random, and other ones the next time.
        return load_module(self._config) if self._is_graph else copy.deepcopy(self._module)


class Candidate:
    """A model that is ready to run in one way.

    Args:
        forward: its pass.
        items: see `Subject`.
        bytes_: of its parameters and buffers.
        is_scores: a row is one score for each class.
        at_once: several passes may run at the same time.
        most: how many items a batch may have, where only the answers count.
    """

    def __init__(
        self,
        forward: Forward,
        items: Sequence[torch.Tensor],
        *,
        bytes_: int,
        is_scores: bool = False,
        at_once: bool = False,
        most: int = ITEMS,
    ) -> None:
        self._forward, self._items = forward, items
        self.bytes = bytes_
        self._is_scores = is_scores
        self.at_once, self._most = at_once, most
        self._seen: set[tuple[int, int]] = set()

    def answers(self) -> list[Any]:
        """Return the rows for all items.

        Raises:
            KeyboardInterrupt: somebody wants this to end.
            Exception: whatever the pass raised.
        """
        begins = range(0, len(self._items), self._most)
        return [row for at in begins for row in self._run(self._items[at : at + self._most])]

    def differs(self, expected: Sequence[Any]) -> Difference:
        """Compare the answers with what another candidate said to the same."""
        rows = self.answers()
        difference = Difference(
            largest_difference(rows, expected), largest_number(expected), len(rows)
        )
        if not self._is_scores:
            return difference
        leads = [_lead(other, _best(row)) for row, other in zip(rows, expected, strict=True)]
        return replace(difference, same_best=leads.count(0.0), lead=max(leads))

    def seconds(self, threads: int, size: int) -> float:
        """Return what a pass of so many items takes with so many cores, while batches come.

        If passes may run at the same time and that is faster, each with a core of its own, then it
        is their share of the time. A single item is timed alone.

        Raises:
            KeyboardInterrupt: somebody wants this to end.
            OutOfMemory: it does not fit.
            Exception: whatever else the pass raised.
        """
        if threads == 1 or size == 1 or not self.at_once:
            return self._timed(1, threads, size)
        shared_s = self._timed(threads, 1, size)
        # What is compiled is compiled for a number of cores; that of a lone item is another graph.
        if self._forward.may_compile:
            return shared_s
        return min(shared_s, self._timed(1, threads, size))

    def _timed(self, streams: int, threads: int, size: int) -> float:
        self._forward.threads = threads
        items = list(islice(cycle(self._items), size))
        if (threads, size) not in self._seen:
            self._run(items)
            self._seen.add((threads, size))
        as_served = self._forward.settled() if streams > 1 else nullcontext()
        with closing(AtOnce(self._forward, streams)) as at_once, as_served, _interruptible():
            passes, started_s = 0, time.perf_counter()
            while passes < MOST_PASSES:
                at_once(items)
                passes += 1
                if (taken_s := time.perf_counter() - started_s) >= LEAST_S:
                    break
        return taken_s / (passes * streams)

    def _run(self, items: Sequence[torch.Tensor]) -> list[Any]:
        with _interruptible():
            return self._forward(items)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interruption through: a pass takes whatever ends it for the model's fault."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise


def items_for(task: Task) -> list[torch.Tensor]:
    """Return items to try a model with: photos if it takes images, random ones like its example."""
    items = _photos(task) if input_of(task)["kind"] == "image" else []
    example = task.example()
    if len(items) >= ITEMS or example is None:
        return items[:ITEMS]
    # Photos answer differently from noise; among them, none is needed.
    return items or [example, *like(example, ITEMS - 1)]


def _photos(task: Task) -> list[torch.Tensor]:
    files = [as_jpeg(path) for path in find_photos().values()] or [drawn_jpeg()]
    items = []
    for file in [*files, *map(mirrored, files)]:
        with suppress(InvalidInput, TooLarge):
            items.append(task.decode(file))
    # One shape, so that they share a batch.
    return items if len({task.bucket_key(item) for item in items}) == 1 else []


def _best(row: Any) -> int | None:
    return int(row.argmax()) if isinstance(row, torch.Tensor) and row.numel() else None


def _lead(row: Any, other: int | None) -> float:
    """Return by how much a row prefers its best class to another; 0: that is its best."""
    best = _best(row)
    if best == other:
        return 0.0
    if best is None or other is None:
        return math.inf
    scores = row.flatten()
    return float(scores[best] - scores[other])

"""A loaded model's first passes: whether they work, and what they cost."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from batchserve.batching.knee import powers_of_two
from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.loading import is_compiled, one_compiles, remember_compiled
from batchserve.repository.advice import advise, longest_pass_s
from batchserve.runners.autotune import autotune
from batchserve.runners.base import OutOfMemory
from batchserve.runners.cuda_graph import RecordingBroke, recorder_for
from batchserve.runners.forward import Forward
from batchserve.runners.graph_choice import choose_graphs
from batchserve.runners.layout import TRIED, choose_layout
from batchserve.runners.reproducible import is_reproducible, like
from batchserve.runners.sharing import Sharing, choose_sharing, use
from batchserve.runners.small_batches import compile_small_batches
from batchserve.runners.thread_safety import (
    NotSafe,
    are_known,
    check_thread_safety,
    may_run_at_once,
)
from batchserve.runners.warmup import sizes_to_try, warm_up
from batchserve.tasks.base import Task

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# The size of batch by which threads are chosen.
USUAL = 8

OnSize = Callable[[int, int | None], None]


def warm(
    config: ModelConfig,
    task: Task,
    forward: Forward,
    most: int,
    on_size: OnSize,
    *,
    may_choose_layout: bool = False,
) -> tuple[dict[int, float], Any]:
    """Run every batch size in use, on the task's example.

    Args:
        config: of the model.
        task: of the model.
        forward: its pass, which has not run yet.
        most: items in a batch, where the config leaves that open.
        on_size: called with how many sizes have been tried, and of how many if that is known.
        may_choose_layout: have images lie in memory as the model is faster with.

    Returns:
        Seconds of a pass by batch size, the largest being the one to use, and the example's row;
        nothing and None where nothing tells the shape of an input.

    Raises:
        LoadError: the model fails on the example, or cannot keep what the config promises.
    """
    example = task.example()
    if example is None:
        _do_without_example(config)
        return {}, None
    on_size(0, sizes_to_try(forward, config.batching.max_batch_size))
    most = min(most, config.batching.max_queue_size)
    with _explained(config, example):
        if may_choose_layout:
            _choose_layout(config, forward, example, most)
        _share_cores(config, forward, example, most, may_compile=task.fixed_shape)
        seconds = _try_sizes(config, forward, example, most, on_size)
        seconds |= _record(config, task, forward, example, list(seconds))
        row = _try_answering(task, forward, example)
        if config.reproducible:
            _verify_reproducible(config, forward, example, max(seconds))
        if task.fixed_shape:
            forward.settle()
    advise(config, seconds)
    return seconds, row


def _do_without_example(config: ModelConfig) -> None:
    advice = (
        "set input_shape, as in [3, 224, 224]"
        if config.task == "tensor"
        else f"let {config.task} have a method example()"
    )
    if config.reproducible:
        raise LoadError(
            f"model {config.name}: reproducible: true cannot be verified, because nothing "
            f"tells the shape of an input: {advice}"
        )
    logger.warning(
        "%s is not warmed up, because nothing tells the shape of an input: %s", config.key, advice
    )


@contextmanager
def _explained(config: ModelConfig, example: "torch.Tensor") -> Iterator[None]:
    """Make a LoadError, with what it was tried on, of whatever a pass raises."""
    try:
        yield
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(
            f"model {config.name}: a forward pass on {example.dtype} of shape "
            f"{list(example.shape)} failed: {type(error).__name__}: {error}{_suspects(config)}"
        ) from error


def _suspects(config: ModelConfig) -> str:
    """What in the config may be to blame for a pass that fails, as words to append."""
    keys = [key for key in ("compile", "channels_last") if getattr(config, key)]
    return f"; leave out {' and '.join(keys)} to see whether it works without" if keys else ""


def _choose_layout(
    config: ModelConfig, forward: Forward, example: "torch.Tensor", most: int
) -> None:
    items = like(example, min(TRIED, config.batching.max_batch_size or most, most))
    try:
        # What is compiled orders its weights itself, and must be the same again to be in the cache.
        trial = choose_layout(forward, items, measure=not config.compile)
    except OutOfMemory:
        return  # the warm-up will find for how many the memory suffices
    if trial is None:
        logger.info("%s channels_last: not used, the model fails with it", config.key)
        return
    logger.info(
        "%s channels_last: %s%s, answers differ by %.0e of the largest number",
        config.key,
        "used" if trial.channels_last else "not used",
        "" if trial.gain is None else f", {trial.gain:.2f} times as fast",
        trial.difference,
    )


def _share_cores(
    config: ModelConfig,
    forward: Forward,
    example: "torch.Tensor",
    most: int,
    *,
    may_compile: bool,
) -> None:
    """Have a pass use as many cores as pay, and as many passes run at the same time."""
    items = like(example, min(config.batching.max_batch_size or USUAL, USUAL, most))
    at_once = _may_run_at_once(config, forward, items, example)
    counts = powers_of_two(forward.threads) if config.autotune else ()
    # Answers that are to stay the same to the bit must not hang on how busy the machine was.
    if forward.on_cpu and not config.reproducible:
        cores = Sharing.by_one(forward.threads)
        try:
            # Others are made up, and may be nothing that the model takes.
            sharing = choose_sharing(
                forward,
                [example] * len(items),
                counts,
                at_once=at_once,
                longest_s=longest_pass_s(config),
            )
            use(forward, sharing)
        except OutOfMemory:  # the warm-up will find for how many the memory suffices
            use(forward, cores)
    if config.autotune:
        _autotune(config, forward, items, may_compile=may_compile)
    if forward.on_cpu:
        shared = Sharing(forward.streams, forward.threads, forward.all_threads)
        logger.info("%s cores: %s", config.key, shared)


def _autotune(
    config: ModelConfig,
    forward: Forward,
    items: Sequence["torch.Tensor"],
    *,
    may_compile: bool,
) -> None:
    def found(threads: int) -> bool:
        return may_compile and is_compiled(config, threads, channels_last=forward.channels_last)

    tuned = autotune(forward, items, found, compiles_anyway=config.compile)
    logger.info("%s autotune: %s", config.key, tuned)


def _may_run_at_once(
    config: ModelConfig,
    forward: Forward,
    items: Sequence["torch.Tensor"],
    example: "torch.Tensor",
) -> bool:
    if config.parallel_batches is False or not may_run_at_once(forward):
        return False
    if config.parallel_batches is None and not are_known(forward.module, forward.task):
        logger.info(
            "%s parallel_batches: not tried, as this model or its task may not stand being called "
            "from several threads at once; if they do, true has it tried",
            config.key,
        )
        return False
    try:
        # One alone could not be mixed up with another.
        check_thread_safety(forward, items if len(items) > 1 else like(example, 2))
    except OutOfMemory:
        return False  # the warm-up will find for how many the memory suffices
    except NotSafe as reason:
        logger.info("%s parallel_batches: not used, %s", config.key, reason)
        return False
    return True


def _try_sizes(
    config: ModelConfig, forward: Forward, example: "torch.Tensor", most: int, on_size: OnSize
) -> dict[int, float]:
    """Run all sizes, compiling what is to be compiled, and tell of each."""
    stated = config.batching.max_batch_size
    of = sizes_to_try(forward, stated)
    done, last_s = 0, time.perf_counter()

    def tried(size: int, seconds: float) -> None:
        nonlocal done, last_s
        done += 1
        on_size(done, of)
        ready_s = time.perf_counter() - last_s if compiles else None
        _log_size(config, size, seconds, ready_s)
        last_s = time.perf_counter()

    # TorchScript is not compiled here, but was made faster as it was placed.
    compiles = config.compile and forward.may_compile
    with one_compiles(config) if compiles else nullcontext():
        if compiles:
            _say_that_it_compiles(config)
        seconds = warm_up(forward, example, stated, tried, most)
        if compiles and forward.packs_in_each_pass:
            logger.info("%s compiling the smallest batches for themselves", config.key)
            small = compile_small_batches(forward, example, max(seconds))
            logger.info("%s code of their own for small batches: %s", config.key, small)
            seconds |= small.seconds
    if compiles:
        remember_compiled(config, forward.threads, channels_last=forward.channels_last)
    return seconds


def _record(
    config: ModelConfig, task: Task, forward: Forward, example: "torch.Tensor", sizes: list[int]
) -> dict[int, float]:
    """Return the seconds of passes that are recorded, by size."""
    if not (config.cuda_graphs and task.fixed_shape) or config.reproducible:
        return {}
    recorder = recorder_for(forward.device)
    if recorder is None:
        return {}
    try:
        choice = choose_graphs(forward, example, sizes, recorder)
    except RecordingBroke as error:
        raise LoadError(f"model {config.name}: {error}") from error
    logger.info("%s CUDA graphs: %s", config.key, choice)
    return choice.seconds


def _say_that_it_compiles(config: ModelConfig) -> None:
    logger.info(
        "%s compiling for each batch size of the warm-up; that takes minutes the first time, "
        "and seconds once it is in the cache",
        config.key,
    )


def _log_size(config: ModelConfig, size: int, seconds: float, ready_s: float | None) -> None:
    stated = config.batching.max_batch_size
    logger.info(
        "%s warm-up: batch of %2d%s in %.1f ms%s",
        config.key,
        size,
        "" if stated is None else f" of {stated}",
        1000 * seconds,
        "" if ready_s is None else f", compiled and tried in {ready_s:.1f} s",
    )


def _try_answering(task: Task, forward: Forward, example: "torch.Tensor") -> Any:
    """Return the example's row, of which the task can make an answer."""
    (row,) = forward([example])
    if isinstance(row, Exception):
        raise row
    task.encode(row, task.Parameters())
    return row


def _verify_reproducible(
    config: ModelConfig, forward: Forward, example: "torch.Tensor", size: int
) -> None:
    if not is_reproducible(forward, example, size):
        raise LoadError(
            f"model {config.name}: reproducible: true cannot be kept here: even in batches of "
            f"always {size}, an answer depends on its place or its neighbours; try a power of "
            f"two as batching.max_batch_size, server.torch_threads: 1, and on a CPU the "
            f"environment variable MKL_CBWR=AUTO,STRICT"
        )

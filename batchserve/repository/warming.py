"""A loaded model's first passes: whether they work, and what they cost."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.loading import is_compiled, one_compiles, remember_compiled
from batchserve.runners.autotune import autotune
from batchserve.runners.base import OutOfMemory
from batchserve.runners.cuda_graph import RecordingBroke, recorder_for
from batchserve.runners.forward import Forward
from batchserve.runners.graph_choice import choose_graphs
from batchserve.runners.layout import TRIED, choose_layout
from batchserve.runners.reproducible import is_reproducible, like
from batchserve.runners.warmup import USUAL, sizes_to_try, warm_up
from batchserve.tasks.base import Task

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# How much slower per item the largest batch must be than the best one. Machines are noisy.
WORTH_A_WORD = 1.5
# Who comes during a pass waits for its end, and for one of their own.
ROOM_FOR_PASSES = 2

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
    batching = config.batching
    of = sizes_to_try(forward, batching.max_batch_size)
    done, last_s = 0, time.perf_counter()

    def tried(size: int, seconds: float) -> None:
        nonlocal done, last_s
        done += 1
        on_size(done, of)
        _log_size(config, size, seconds, time.perf_counter() - last_s)
        last_s = time.perf_counter()

    on_size(0, of)
    most = min(most, batching.max_queue_size)
    try:
        if may_choose_layout:
            _choose_layout(config, forward, example, min(batching.max_batch_size or most, most))
        if config.autotune:
            items = like(example, min(batching.max_batch_size or USUAL, USUAL, most))
            _autotune(config, forward, items, may_compile=task.fixed_shape)
        with one_compiles(config):
            _say_that_it_compiles(config)
            seconds = warm_up(
                forward, example, batching.max_batch_size, tried, most,
                may_choose_threads=not config.autotune,
            )  # fmt: skip
        if config.compile:
            remember_compiled(config, forward.threads, channels_last=forward.channels_last)
        seconds |= _record(config, task, forward, example, list(seconds))
        (row,) = forward([example])
        _try_encoding(task, row)
        if config.reproducible:
            _verify_reproducible(config, forward, example, max(seconds))
        if task.fixed_shape:
            forward.settle()
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(
            f"model {config.name}: a forward pass on {example.dtype} of shape "
            f"{list(example.shape)} failed: {type(error).__name__}: {error}{_suspects(config)}"
        ) from error
    _advise(config, seconds)
    _check_promise(config, seconds)
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


def _suspects(config: ModelConfig) -> str:
    """What in the config may be to blame for a pass that fails, as words to append."""
    keys = [key for key in ("compile", "channels_last") if getattr(config, key)]
    return f"; leave out {' and '.join(keys)} to see whether it works without" if keys else ""


def _choose_layout(
    config: ModelConfig, forward: Forward, example: "torch.Tensor", most: int
) -> None:
    items = like(example, min(TRIED, most))
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


def _autotune(
    config: ModelConfig, forward: Forward, items: "list[torch.Tensor]", *, may_compile: bool
) -> None:
    def found(threads: int) -> bool:
        return may_compile and is_compiled(config, threads, channels_last=forward.channels_last)

    tuned = autotune(forward, items, found, compiles_anyway=config.compile)
    logger.info("%s autotune: %s", config.key, tuned)


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
    if config.compile:
        logger.info(
            "%s compiling for each batch size of the warm-up; that takes minutes the first time, "
            "and seconds once it is in the cache",
            config.key,
        )


def _try_encoding(task: Task, row: Any) -> None:
    if isinstance(row, Exception):
        raise row
    task.encode(row, task.Parameters())


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


def _advise(config: ModelConfig, seconds: dict[int, float]) -> None:
    largest = max(seconds)
    stated = config.batching.max_batch_size
    if stated is not None and largest < stated:
        logger.warning(
            "%s: the memory does not suffice for max_batch_size: %d; %d is used",
            *(config.key, stated, largest),
        )
    best = min(seconds, key=lambda size: seconds[size] / size)
    ratio = seconds[largest] / largest / (seconds[best] / best)
    # An adaptive policy keeps to the best by itself.
    if ratio > WORTH_A_WORD and config.batching.policy == "fixed":
        logger.warning(
            "%s: a batch of %d took %.1f times as long per item as one of %d; "
            "max_batch_size: %d may be faster here",
            *(config.key, largest, ratio, best, best),
        )


def _check_promise(config: ModelConfig, seconds: dict[int, float]) -> None:
    slo_ms, alone_ms = config.slo_ms, 1000 * min(seconds.values())
    if slo_ms is not None and slo_ms < ROOM_FOR_PASSES * alone_ms:
        logger.warning(
            "%s: slo_ms: %g leaves no room for a wait: one forward pass takes %.1f ms, and "
            "whoever comes during one waits for two; most requests may be refused",
            *(config.key, slo_ms, alone_ms),
        )


def _log_size(config: ModelConfig, size: int, seconds: float, ready_s: float) -> None:
    stated = config.batching.max_batch_size
    logger.info(
        "%s warm-up: batch of %2d%s in %.1f ms%s",
        config.key,
        size,
        "" if stated is None else f" of {stated}",
        1000 * seconds,
        f", compiled and tried in {ready_s:.1f} s" if config.compile else "",
    )

"""What a model's measured passes say of its config."""

import logging
import math
from collections.abc import Mapping

from batchserve.config import ModelConfig

logger = logging.getLogger(__name__)

# How much slower per item the largest batch must be than the best one. Machines are noisy.
WORTH_A_WORD = 1.5
# Who comes during a pass waits for its end, and for one of their own.
ROOM_FOR_PASSES = 2


def longest_pass_s(config: ModelConfig) -> float:
    """Return what a pass may take if promises are to be kept; infinity: there are none."""
    return math.inf if config.slo_ms is None else config.slo_ms / 1000 / ROOM_FOR_PASSES


def advise(config: ModelConfig, seconds: Mapping[int, float]) -> None:
    """Warn of what the config asks for and cannot have, or would not want.

    Args:
        config: of the model.
        seconds: of a pass by batch size, the largest being the one in use.
    """
    _check_size(config, seconds)
    _compare_sizes(config, seconds)
    _check_promise(config, seconds)


def _check_size(config: ModelConfig, seconds: Mapping[int, float]) -> None:
    largest, stated = max(seconds), config.batching.max_batch_size
    if stated is not None and largest < stated:
        logger.warning(
            "%s: the memory does not suffice for max_batch_size: %d; %d is used",
            *(config.key, stated, largest),
        )


def _compare_sizes(config: ModelConfig, seconds: Mapping[int, float]) -> None:
    largest = max(seconds)
    best = min(seconds, key=lambda size: seconds[size] / size)
    ratio = seconds[largest] / largest / (seconds[best] / best)
    # An adaptive policy keeps to the best by itself.
    if ratio > WORTH_A_WORD and config.batching.policy == "fixed":
        logger.warning(
            "%s: a batch of %d took %.1f times as long per item as one of %d; "
            "max_batch_size: %d may be faster here",
            *(config.key, largest, ratio, best, best),
        )


def _check_promise(config: ModelConfig, seconds: Mapping[int, float]) -> None:
    alone_s = min(seconds.values())
    if longest_pass_s(config) < alone_s:
        logger.warning(
            "%s: slo_ms: %g leaves no room for a wait: one forward pass takes %.1f ms, and "
            "whoever comes during one waits for two; most requests may be refused",
            *(config.key, config.slo_ms, 1000 * alone_s),
        )

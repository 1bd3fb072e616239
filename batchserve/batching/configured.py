"""A model's section of the configuration to its scheduler, for production and simulation alike."""

from collections.abc import Mapping

from batchserve.batching.cost import Cost
from batchserve.batching.policy import POLICIES, Policy
from batchserve.batching.scheduler import Scheduler
from batchserve.config import ModelConfig


def scheduler_for(
    config: ModelConfig,
    largest: int,
    forward_s: Mapping[int, float],
    policy: Policy | None = None,
) -> Scheduler:
    """Return the scheduler of a model.

    Args:
        config: the model's.
        largest: N, which the config need not state.
        forward_s: seconds of a pass by batch size, as measured at warm-up; empty: not known.
        policy: another one than the config's.
    """
    batching = config.batching
    chosen: Policy = policy or POLICIES[batching.policy](largest, config.max_wait_s)
    return Scheduler(chosen, Cost(chosen.max_batch_size, forward_s), batching.max_queue_size)

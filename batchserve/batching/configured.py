"""A model's section of the configuration to its scheduler, for production and simulation alike."""

from collections.abc import Mapping

from batchserve.batching.cost import Cost
from batchserve.batching.policy import POLICIES, Policy
from batchserve.batching.scheduler import Scheduler
from batchserve.config import ModelConfig


def scheduler_for(config: ModelConfig, forward_s: Mapping[int, float]) -> Scheduler:
    """Return the scheduler of a model.

    Args:
        config: the model's.
        forward_s: seconds of a pass by batch size, as measured at warm-up; empty: not known.
    """
    batching = config.batching
    policy: Policy = POLICIES[batching.policy](batching.max_batch_size, config.max_wait_s)
    return Scheduler(
        policy, Cost(batching.max_batch_size, forward_s), batching.max_queue_size
    )

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
    streams: int = 1,
) -> Scheduler:
    """Return the scheduler of a model.

    Args:
        config: the model's.
        largest: N, which the config need not state.
        forward_s: seconds of a pass by batch size, as measured at warm-up; empty: not known.
        policy: another one than the config's.
        streams: passes that run at the same time.
    """
    batching = config.batching
    chosen: Policy = policy or POLICIES[batching.policy](largest, config.max_wait_s)
    cost = Cost(chosen.max_batch_size, forward_s)
    return Scheduler(chosen, cost, batching.max_queue_size, streams)

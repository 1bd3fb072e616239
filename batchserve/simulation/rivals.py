"""Other policies, for comparison, each on production's scheduler."""

from collections.abc import Callable, Mapping
from functools import partial

from batchserve.batch import Batch, CloseReason
from batchserve.batching.bucket import Bucket
from batchserve.batching.configured import scheduler_for
from batchserve.batching.policy import Close, FixedPolicy, Policy, View, Wait
from batchserve.batching.scheduler import Scheduler
from batchserve.config import ModelConfig
from batchserve.errors import ConfigError

OURS, ORACLE = "ours", "oracle"
# Clipper's figures: an item more after a batch that was fast enough, a tenth less after another.
INCREASE, DECREASE = 1.0, 0.9


class AimdPolicy:
    """Clipper's adaptive batching (Crankshaw et al., NSDI 2017, §4.3.1).

    The maximum batch size grows additively until a batch takes longer than the objective, and is
    then cut by a tenth. A batch goes as soon as the device is free. There is no admission beside
    the queue's bound.

    Args:
        max_batch_size: never more, whatever would be fast enough.
        objective_s: what a batch may take.
    """

    keeps_promises = False

    def __init__(self, max_batch_size: int, objective_s: float) -> None:
        self.max_batch_size = max_batch_size
        self._objective_s = objective_s
        self._limit = 1.0

    def decide(self, bucket: Bucket, view: View) -> Close | Wait:
        """Close at once, with as many as the limit allows."""
        most = min(int(self._limit), view.most)
        return Close(most, CloseReason.FULL if len(bucket) >= most else CloseReason.IDLE)

    def observe(self, batch: Batch) -> None:
        """Adapt the limit to what this batch took."""
        if batch.forward_s > self._objective_s:
            self._limit = max(1.0, DECREASE * self._limit)
        elif len(batch) >= int(self._limit):
            self._limit = min(self.max_batch_size, self._limit + INCREASE)


def scheduler_maker(
    rival: str, config: ModelConfig, largest: int, forward_s: Mapping[int, float]
) -> Callable[[], Scheduler]:
    """Return what makes the scheduler of a policy.

    Args:
        rival: `ours`, `fixed:N:T` with T in milliseconds, or `aimd`, whose objective is the
            promise, or `aimd:MS`.
        config: the model's.
        largest: N of ours and of AIMD.
        forward_s: as measured at warm-up.

    Raises:
        ConfigError: there is no such policy.
    """
    make = _policy_maker(rival, config, largest)
    make()
    return lambda: scheduler_for(config, largest, forward_s, make())


def _policy_maker(rival: str, config: ModelConfig, largest: int) -> Callable[[], Policy | None]:
    name, _, rest = rival.partition(":")
    try:
        match name, [float(number) for number in rest.split(":") if rest]:
            case "ours", []:
                return lambda: None
            case "fixed", [n, wait_ms] if n >= 1 and wait_ms >= 0:
                return partial(FixedPolicy, int(n), wait_ms / 1000)
            case "aimd", [] if config.slo_ms is not None:
                return partial(AimdPolicy, largest, config.slo_ms / 1000)
            case "aimd", [objective_ms] if objective_ms > 0:
                return partial(AimdPolicy, largest, objective_ms / 1000)
    except ValueError:
        pass
    raise ConfigError(
        f"--against: {rival!r} is no policy; write fixed:N:T as in fixed:8:2, aimd where "
        f"there is a promise, aimd:MS, or oracle"
    )

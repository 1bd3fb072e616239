"""What the tests simulate."""

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from batchserve.batch import Batch
from batchserve.batching.configured import scheduler_for
from batchserve.batching.policy import Policy
from batchserve.batching.scheduler import Scheduler
from batchserve.config import ModelConfig
from batchserve.simulation.machine import Machine
from batchserve.simulation.simulator import Run, Site, simulate
from batchserve.simulation.study import Study
from batchserve.simulation.traffic import Ask, Given
from batchserve.simulation.worker import Promises


def model(largest: int, slo_ms: float | None = None, **batching: Any) -> ModelConfig:
    described = {"max_batch_size": largest, **batching}
    return ModelConfig.model_validate(
        {"name": "m", "source": "a:b", "slo_ms": slo_ms, "batching": described}
    )


def scheduler(
    config: ModelConfig, machine: Machine, policy: Policy | None = None
) -> Callable[[], Scheduler]:
    largest = config.batching.max_batch_size or 1
    return lambda: scheduler_for(config, largest, machine.warm_up(largest), policy)


def serve(
    asks: Iterable[Ask],
    config: ModelConfig,
    machine: Machine,
    policy: Policy | None = None,
    on_batch: Callable[[Batch], None] = lambda _batch: None,
    **site: Any,
) -> Run:
    """Simulate requests that are written down."""
    promises = Promises(slo_ms=config.slo_ms)
    place = Site(machine, scheduler(config, machine, policy), promises, **site)
    return simulate(Given(asks), place, on_batch=on_batch)


def study(
    forward_ms: Mapping[int, float],
    slo_ms: float | None,
    load: float,
    requests: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
    largest: int | None = None,
    **changes: Any,
) -> Study:
    """Look at a load, as a multiple of the capacity, for about so many requests."""
    machine = Machine({size: ms / 1000 for size, ms in forward_ms.items()}, noise=noise)
    largest = largest or max(forward_ms)
    rate = load * machine.capacity(largest)
    return Study(
        model=model(largest, slo_ms),
        machine=machine,
        largest=largest,
        rate=rate,
        seconds=requests / rate,
        seed=seed,
        **changes,
    )


def rng(seed: int) -> Random:
    return Random(seed)

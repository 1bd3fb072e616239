"""The simulator is production in virtual time: the same batches as the asynchronous batcher."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from batchserve.batch import Batch, Priority
from batchserve.batching.batcher import Batcher
from batchserve.config import ModelConfig
from batchserve.errors import DeadlineExceeded, RequestError
from batchserve.simulation.machine import Machine
from batchserve.simulation.traffic import Ask
from batchserve.simulation.visit import ANSWERED, Visit
from batchserve.testing import FakeRunner, run_virtual
from batchserve.web.terms import PRIORITY, TIMEOUT, read_terms
from tests.simulation.settings import model, rng, scheduler, serve

DECODE_S, DECODERS = 0.002, 2
LINEAR = Machine(
    {1: 0.010, 8: 0.024}, decode_s=DECODE_S, decoders=DECODERS, slowdowns=[(1.0, 1.7), (1.5, 1.0)]
)


@dataclass
class Seen:
    """What happened: batches, and by the time of its arrival what each request got, and when."""

    batches: list[tuple[float, str, list[float]]] = field(default_factory=list)
    ends: dict[float, tuple[str, float]] = field(default_factory=dict)


def asks(rate: float, seconds: float = 2.0) -> list[Ask]:
    random = rng(7)
    made, now_s = [], 0.0
    while (now_s := now_s + random.expovariate(rate)) < seconds:
        made.append(
            Ask(
                now_s,
                items=random.choice([1, 1, 1, 3, 11]),
                priority=random.choice(list(Priority)),
                timeout_ms=random.choice([None, None, 97.0, 400.0]),
                bucket=random.choice(["usual", "usual", "wide"]),
            )
        )
    return made


def simulated(requests: Sequence[Ask], config: ModelConfig) -> Seen:
    seen = Seen()

    def on_batch(batch: Batch) -> None:
        members = [visit_of(item.request).ask.at_s for item in batch.items]
        seen.batches.append((batch.formed_s, str(batch.reason), members))

    run = serve(requests, config, LINEAR, on_batch=on_batch)
    for visit in run.visits:
        assert visit.outcome is not None
        seen.ends[visit.ask.at_s] = visit.outcome, visit.done_s
    return seen


def visit_of(request: Any) -> Visit:
    assert isinstance(request, Visit)
    return request


class Production:
    """The same with production's batcher, and handlers as in `web/predict.py`."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.seen = Seen()
        self.decoders = asyncio.Semaphore(DECODERS)
        self.clock = asyncio.get_running_loop().time
        self.batcher = Batcher(
            "m:1",
            scheduler(config, LINEAR)(),
            FakeRunner(lambda size: LINEAR.pass_s(size, self.clock(), rng(0))),
            str,
            self.on_batch,
            clock=self.clock,
        )

    async def serve(self, requests: Sequence[Ask]) -> Seen:
        self.batcher.start()
        await asyncio.gather(*map(self.handle, requests))
        await self.batcher.close()
        return self.seen

    async def handle(self, ask: Ask) -> None:
        await asyncio.sleep(ask.at_s - self.clock())
        try:
            await self.answer(ask)
            code = ANSWERED
        except TimeoutError:
            code = DeadlineExceeded.code
        except RequestError as error:
            code = error.code
        self.seen.ends[ask.at_s] = code, self.clock()

    async def answer(self, ask: Ask) -> None:
        headers = {PRIORITY: str(int(ask.priority))}
        if ask.timeout_ms is not None:
            headers[TIMEOUT] = str(ask.timeout_ms)
        terms = read_terms(headers, self.clock(), 30_000, self.config.slo_ms)
        async with asyncio.timeout(terms.deadline_s - self.clock()):
            with self.batcher.arrival(terms) as arrival:
                arrival.reserve(ask.items)
                inputs = await asyncio.gather(*(self.decode(ask) for _ in range(ask.items)))
                futures = [item.future for item in arrival.submit(inputs)]
                try:
                    await asyncio.gather(*futures)
                finally:
                    for future in futures:
                        future.cancel()

    async def decode(self, ask: Ask) -> Any:
        async with self.decoders:
            await asyncio.sleep(DECODE_S)
        return ask.bucket

    def on_batch(self, batch: Batch) -> None:
        members: list[Any] = [item.request for item in batch.items]
        arrived_s = [arrival.arrived_s for arrival in members]
        self.seen.batches.append((batch.formed_s, str(batch.reason), arrived_s))


def served(requests: Sequence[Ask], config: ModelConfig) -> Seen:
    async def main() -> Seen:
        return await Production(config).serve(requests)

    return run_virtual(main)


@pytest.mark.parametrize(
    "config",
    [
        model(8, slo_ms=150),
        model(8, max_wait_ms=5),
        model(8, policy="fixed", max_wait_ms=5, max_queue_size=30),
    ],
    ids=["slo", "adaptive", "fixed"],
)
@pytest.mark.parametrize("rate", [20, 60, 300])
def test_the_same_arrivals_make_the_same_batches(config: ModelConfig, rate: float):
    requests = asks(rate)
    expected, found = served(requests, config), simulated(requests, config)
    assert len(found.batches) > 10
    for ours, theirs in zip(found.batches, expected.batches, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
        assert ours[1] == theirs[1]
        assert ours[2] == pytest.approx(theirs[2], abs=1e-6)
    assert found.ends.keys() == expected.ends.keys()
    for at_s, (code, done_s) in found.ends.items():
        assert code == expected.ends[at_s][0]
        assert done_s == pytest.approx(expected.ends[at_s][1], abs=1e-6)

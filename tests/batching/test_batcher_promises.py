"""The batcher's promises, for any traffic that hypothesis can think of, on virtual time."""

import asyncio
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchserve.batch import Batch, CloseReason, Priority, Terms
from batchserve.batching.batcher import Batcher
from batchserve.batching.cost import Cost
from batchserve.batching.policy import POLICIES
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import DeadlineExceeded, ModelFailed, Overloaded, QueueFull, TooLarge
from batchserve.runners.base import OutOfMemory
from batchserve.testing import FakeRunner, run_virtual
from tests.batching.clients import check_empty

SLACK_S = 1e-6
LONG_S = 60.0


@dataclass(frozen=True)
class Request:
    """What one client does."""

    arrives_s: float
    decode_s: float
    items: int
    shape: int
    due_s: float
    deadline_s: float
    priority: Priority
    hangs_up_s: float | None
    poisoned: int  # so many of its items make a pass fail

    @property
    def leaves_s(self) -> float:
        """When it waits no longer, whatever comes of it."""
        patience_s = self.deadline_s if self.hangs_up_s is None else self.hangs_up_s
        return self.arrives_s + min(self.deadline_s, patience_s)


@dataclass(frozen=True)
class Setting:
    policy: str
    n: int
    t_s: float
    forward_s: float
    per_item_s: float
    seeded: bool
    max_queue_size: int
    room: int  # items that the device's memory has room for


# Whole milliseconds, so that things do happen at the same instant.
milliseconds = st.integers(0, 40).map(lambda ms: ms / 1000)
requests = st.lists(
    st.builds(
        Request,
        arrives_s=milliseconds,
        decode_s=milliseconds,
        items=st.integers(1, 5),
        shape=st.integers(1, 3),
        due_s=st.sampled_from([0.003, 0.020, 0.050, LONG_S, LONG_S]),
        deadline_s=st.sampled_from([0.005, 0.030, LONG_S, LONG_S]),
        priority=st.sampled_from(Priority),
        hangs_up_s=st.sampled_from([None, None, None, 0.0, 0.010]),
        poisoned=st.sampled_from([0, 0, 0, 0, 1, 2]),
    ),
    min_size=1,
    max_size=25,
)
set_ups = st.builds(
    Setting,
    policy=st.sampled_from(sorted(POLICIES)),
    n=st.integers(1, 6),
    t_s=st.sampled_from([0.0, 0.002, 0.020]),
    forward_s=st.sampled_from([0.0, 0.001, 0.010]),
    per_item_s=st.sampled_from([0.0, 0.001]),
    seeded=st.booleans(),
    max_queue_size=st.sampled_from([6, 20, 1000]),
    room=st.sampled_from([1, 3, 100, 100]),
)


class World:
    """One run: what was sent, what came back, which batches there were."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.batches: list[Batch] = []
        self.answers: dict[int, list[Any] | BaseException] = {}
        self.serial = 0
        self.passes: list[tuple[float, float]] = []
        self.runner = FakeRunner(self._seconds, self._rows)

    def _seconds(self, size: int) -> float:
        setting = self.setting
        seconds = setting.forward_s + size * setting.per_item_s
        now_s = asyncio.get_running_loop().time()
        self.passes.append((now_s, now_s + seconds))
        return seconds

    def _rows(self, tensors: Any) -> list[torch.Tensor]:
        if len(tensors) > self.setting.room:
            raise OutOfMemory("the fake device is small")
        if any((tensor < 0).any() for tensor in tensors):
            raise ValueError("poison")
        return [10 * tensor for tensor in tensors]

    async def run(self, requests: list[Request]) -> None:
        setting = self.setting
        sizes = {size: setting.forward_s + size * setting.per_item_s for size in (1, setting.n)}
        scheduler = Scheduler(
            POLICIES[setting.policy](setting.n, setting.t_s),
            Cost(setting.n, sizes if setting.seeded else None),
            setting.max_queue_size,
        )
        batcher = Batcher(
            "promises:1",
            scheduler,
            self.runner,
            on_batch=self.batches.append,
            clock=asyncio.get_running_loop().time,
        )
        batcher.start()
        clients = [
            asyncio.create_task(self.client(batcher, number, request))
            for number, request in enumerate(requests)
        ]
        await asyncio.gather(*clients)
        # Whoever has left may be in the pass that is running.
        await asyncio.sleep(1)
        assert batcher.running
        check_empty(batcher)
        await batcher.close()

    async def client(self, batcher: Batcher, number: int, request: Request) -> None:
        await asyncio.sleep(request.arrives_s)
        asking = asyncio.create_task(self.handler(batcher, number, request))
        if request.hangs_up_s is not None:
            await asyncio.sleep(request.hangs_up_s)
            asking.cancel()
        answers = await asyncio.gather(asking, return_exceptions=True)
        assert number not in self.answers
        self.answers[number] = answers[0]

    async def handler(self, batcher: Batcher, number: int, request: Request) -> list[Any]:
        now_s = batcher.clock()
        deadline_s = now_s + request.deadline_s
        terms = Terms(min(now_s + request.due_s, deadline_s), deadline_s, request.priority)
        try:
            async with asyncio.timeout(request.deadline_s):
                with batcher.arrival(terms) as arrival:
                    arrival.reserve(request.items)
                    await asyncio.sleep(request.decode_s)
                    tensors = self.tensors_of(request)
                    futures = [item.future for item in arrival.submit(tensors)]
                    assert batcher.scheduler.taken <= self.setting.max_queue_size
                    try:
                        rows = await asyncio.gather(*futures)
                    finally:
                        for future in futures:
                            future.cancel()
        except TimeoutError:
            raise DeadlineExceeded("the handler's time is over") from None
        for tensor, row in zip(tensors, rows, strict=True):
            assert torch.equal(row, 10 * tensor), "another item's row"
        return rows

    def tensors_of(self, request: Request) -> list[torch.Tensor]:
        tensors = []
        for position in range(request.items):
            self.serial += 1
            sign = -1 if position < request.poisoned else 1
            tensors.append(torch.full((request.shape,), float(sign * self.serial)))
        return tensors

    def idle_s(self, start_s: float, end_s: float) -> float:
        """How long the device did nothing between these."""
        busy_s = sum(max(0.0, min(end, end_s) - max(start, start_s)) for start, end in self.passes)
        return end_s - start_s - busy_s


@settings(max_examples=300, deadline=None)
@given(setting=set_ups, requests=requests)
def test_the_promises_hold(setting: Setting, requests: list[Request]):
    world = World(setting)
    run_virtual(lambda: world.run(requests))

    # None lost: every client has an answer, and only of the kinds that the contract knows.
    assert sorted(world.answers) == list(range(len(requests)))
    for number, request in enumerate(requests):
        answer = world.answers[number]
        if isinstance(answer, asyncio.CancelledError):
            assert request.hangs_up_s is not None
        elif isinstance(answer, BaseException):
            known = QueueFull, Overloaded, TooLarge, ModelFailed, DeadlineExceeded
            assert isinstance(answer, known), repr(answer)
            # Only the guilty get the model's error, and only the hasty are too late or refused.
            assert not isinstance(answer, ModelFailed) or request.poisoned
            hasty = min(request.due_s, request.deadline_s) < LONG_S
            assert not isinstance(answer, DeadlineExceeded) or hasty
            assert not isinstance(answer, Overloaded) or setting.policy == "adaptive"
        else:
            assert len(answer) == request.items
            assert not request.poisoned

    # None computed twice: what is reported has an answer.
    computed = [item for batch in world.batches for item in batch.items]
    assert len({id(item) for item in computed}) == len(computed)

    for batch in world.batches:
        # Never over N, never of two kinds, and nothing that had expired.
        assert 1 <= len(batch) <= min(setting.n, setting.room)
        assert len({item.bucket_key for item in batch.items}) == 1
        assert all(batch.started_s < item.terms.deadline_s for item in batch.items)
        assert all(item.batch is batch for item in batch.items)
        # Unless it was full of somebody who left, or became too late, in that very instant.
        just_left = any(abs(one.leaves_s - batch.formed_s) <= SLACK_S for one in requests)
        if setting.policy == "fixed" and setting.room > setting.n and not just_left:
            assert batch.reason is not CloseReason.FULL or len(batch) == setting.n

    # Of each request, first in is first out.
    by_request: dict[Any, list[float]] = {}
    for item in computed:
        by_request.setdefault(item.request, []).append(abs(item.tensor.flatten()[0].item()))
    assert all(order == sorted(order) for order in by_request.values())


@settings(max_examples=300, deadline=None)
@given(setting=set_ups, requests=requests)
def test_the_device_does_not_idle_while_somebody_has_waited_long_enough(
    setting: Setting, requests: list[Request]
):
    world = World(setting)
    run_virtual(lambda: world.run(requests))
    for batch in world.batches:
        for item in batch.items:
            over_s = item.queued_s + setting.t_s
            if batch.formed_s > over_s:
                assert world.idle_s(over_s, batch.formed_s) <= SLACK_S


@settings(max_examples=100, deadline=None)
@given(requests=requests)
def test_adaptive_alone_waits_for_nobody(requests: list[Request]):
    setting = Setting("adaptive", 8, 0.020, 0.0, 0.0, False, 1000, 100)
    world = World(setting)
    spread = [
        Request(number, 0.001, 1, request.shape, LONG_S, LONG_S, request.priority, None, 0)
        for number, request in enumerate(requests)
    ]
    run_virtual(lambda: world.run(spread))
    for batch in world.batches:
        assert all(batch.formed_s == item.queued_s for item in batch.items)

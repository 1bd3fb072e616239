"""The batcher's promises, for any traffic that hypothesis can think of, on virtual time."""

import asyncio
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchserve.batch import Batch, CloseReason
from batchserve.batching.batcher import Batcher
from batchserve.batching.policy import POLICIES
from batchserve.errors import DeadlineExceeded, ModelFailed, QueueFull, TooLarge
from batchserve.testing import FakeRunner, run_virtual

SLACK_S = 1e-6


@dataclass(frozen=True)
class Request:
    """What one client does."""

    arrives_s: float
    decode_s: float
    items: int
    shape: int
    deadline_s: float
    hangs_up_s: float | None
    poisoned: bool


@dataclass(frozen=True)
class Setting:
    policy: str
    n: int
    t_s: float
    forward_s: float
    per_item_s: float
    max_queue_size: int


# Whole milliseconds, so that things do happen at the same instant.
milliseconds = st.integers(0, 40).map(lambda ms: ms / 1000)
requests = st.lists(
    st.builds(
        Request,
        arrives_s=milliseconds,
        decode_s=milliseconds,
        items=st.integers(1, 5),
        shape=st.integers(1, 3),
        deadline_s=st.sampled_from([0.005, 0.030, 60.0, 60.0]),
        hangs_up_s=st.sampled_from([None, None, None, 0.0, 0.010]),
        poisoned=st.sampled_from([False, False, False, False, True]),
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
    max_queue_size=st.sampled_from([6, 20, 1000]),
)


class World:
    """One run: what was sent, what came back, which batches there were."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.batches: list[Batch] = []
        self.answers: dict[int, list[Any] | BaseException] = {}
        self.serial = 0
        self.passes: list[tuple[float, float]] = []
        self.runner = FakeRunner(
            lambda size: setting.forward_s + size * setting.per_item_s, self._rows
        )

    def _rows(self, tensors: Any) -> list[torch.Tensor]:
        if any((tensor < 0).any() for tensor in tensors):
            raise ValueError("poison")
        return [10 * tensor for tensor in tensors]

    async def run(self, requests: list[Request]) -> None:
        clock = asyncio.get_running_loop().time
        setting = self.setting
        batcher = Batcher(
            "promises:1",
            POLICIES[setting.policy](setting.n, setting.t_s),
            self.runner,
            setting.max_queue_size,
            self.batches.append,
            clock,
        )
        batcher.start()
        clients = [
            asyncio.create_task(self.client(batcher, number, request))
            for number, request in enumerate(requests)
        ]
        await asyncio.gather(*clients)
        await asyncio.sleep(100)
        assert batcher.running
        assert repr(batcher) == "<Batcher promises:1 | 0 queued, 0 in flight>"
        # Nothing is left that would keep others out or waiting.
        assert batcher._arrivals == set()
        await batcher.close()

    async def client(self, batcher: Batcher, number: int, request: Request) -> None:
        await asyncio.sleep(request.arrives_s)
        asking = asyncio.create_task(self.ask(batcher, number, request))
        if request.hangs_up_s is not None:
            await asyncio.sleep(request.hangs_up_s)
            asking.cancel()
        answers = await asyncio.gather(asking, return_exceptions=True)
        assert number not in self.answers
        self.answers[number] = answers[0]

    async def ask(self, batcher: Batcher, number: int, request: Request) -> list[Any]:
        sign = -1 if request.poisoned else 1
        tensors = []
        for _ in range(request.items):
            self.serial += 1
            tensors.append(torch.full((request.shape,), float(sign * self.serial)))
        deadline_s = batcher.clock() + request.deadline_s
        with batcher.arrival() as arrival:
            arrival.reserve(request.items)
            await asyncio.sleep(request.decode_s)
            items = arrival.submit(tensors, deadline_s)
            rows = await asyncio.gather(*(item.future for item in items))
            for tensor, row in zip(tensors, rows, strict=True):
                assert torch.equal(row, 10 * tensor), "another item's row"
            return rows


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
            assert isinstance(answer, QueueFull | TooLarge | ModelFailed | DeadlineExceeded)
            if isinstance(answer, DeadlineExceeded):
                assert request.deadline_s < 60
        else:
            assert len(answer) == request.items
            assert not request.poisoned

    # None computed twice.
    computed = [item for batch in world.batches for item in batch.items]
    assert len({id(item) for item in computed}) == len(computed)

    for batch in world.batches:
        # Never over N, never of two kinds, and full means full.
        assert 1 <= len(batch) <= setting.n
        assert batch.reason is not CloseReason.FULL or len(batch) == setting.n
        assert len({item.bucket_key for item in batch.items}) == 1
        # Nothing that had expired was computed.
        assert all(batch.formed_s < item.deadline_s for item in batch.items)

    # In each bucket, first in is first out.
    by_kind: dict[Any, list[float]] = {}
    for item in computed:
        by_kind.setdefault(item.bucket_key, []).append(item.queued_s)
    assert all(order == sorted(order) for order in by_kind.values())


@settings(max_examples=300, deadline=None)
@given(setting=set_ups, requests=requests)
def test_nobody_waits_past_t_and_the_passes_ahead(setting: Setting, requests: list[Request]):
    """Never past T plus one forward pass, once the older items have had theirs."""
    world = World(setting)
    run_virtual(lambda: world.run(requests))
    batches = sorted(world.batches, key=lambda batch: batch.formed_s)
    for position, batch in enumerate(batches):
        before = batches[:position]
        for item in batch.items:
            # The device is free for this item when the pass that it met is done, and then those
            # batches whose head is older.
            free_s = item.queued_s
            for other in before:
                end_s = other.formed_s + other.forward_s
                if end_s > item.queued_s:
                    free_s = max(free_s, end_s)
            assert batch.formed_s <= max(item.queued_s + setting.t_s, free_s) + SLACK_S


@settings(max_examples=100, deadline=None)
@given(requests=requests)
def test_adaptive_alone_waits_for_nobody(requests: list[Request]):
    setting = Setting("adaptive", 8, 0.020, 0.0, 0.0, 1000)
    world = World(setting)
    spread = [
        Request(number, 0.001, 1, request.shape, 60.0, None, poisoned=False)
        for number, request in enumerate(requests)
    ]
    run_virtual(lambda: world.run(spread))
    for batch in world.batches:
        assert all(batch.formed_s == item.queued_s for item in batch.items)

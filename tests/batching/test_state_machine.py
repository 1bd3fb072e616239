"""The scheduler under any sequence of events that hypothesis can think of."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchserve.batch import Batch, CloseReason, Item, Priority, Terms
from batchserve.batching.cost import Cost
from batchserve.batching.policy import AdaptivePolicy, FixedPolicy, Policy, Wait
from batchserve.batching.scheduler import Scheduler
from batchserve.batching.shares import WEIGHTS
from batchserve.errors import Overloaded, QueueFull, TooLarge
from tests.batching.clients import check_scheduler_empty
from tests.batching.items import NEVER_S, item

N, MAX_QUEUE_SIZE = 4, 24
SHAPES = ("small", "large")
PASS_S, ITEM_S = 0.010, 0.001
SEED = {size: PASS_S + ITEM_S * size for size in (1, 2, 4)}

shapes = st.sampled_from(SHAPES)
priorities = st.sampled_from(Priority)
due = st.sampled_from([0.002, 0.015, 0.060, NEVER_S])
deadlines = st.sampled_from([0.010, 0.100, NEVER_S, NEVER_S])
counts = st.one_of(st.integers(1, N + 1), st.integers(1, MAX_QUEUE_SIZE + 2))


@dataclass
class Request:
    """A request as its handler knows it."""

    count: int
    terms: Terms
    shape: Hashable
    items: list[Item] = field(default_factory=list)


class SchedulerMachine(RuleBasedStateMachine):
    """Requests arrive, are decoded, wait, leave; batches are formed, succeed and fail."""

    policy: Policy = AdaptivePolicy(N)

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(self.policy, Cost(N, SEED), MAX_QUEUE_SIZE)
        self.now_s = 0.0
        self.held: list[Request] = []
        self.waiting: list[Request] = []
        self.running: Batch | None = None
        self.batched: set[int] = set()
        self.draining = False
        self.kept: list[Item] = []  # so that no id is used twice
        self.passed: dict[int, int] = {}  # how often an item that could go was passed over

    # What happens.

    @rule(count=counts, due_s=due, deadline_s=deadlines, priority=priorities, shape=shapes)
    def hold(
        self, count: int, due_s: float, deadline_s: float, priority: Priority, shape: str
    ) -> None:
        due_s = min(due_s, deadline_s)
        terms = Terms(self.now_s + due_s, self.now_s + deadline_s, priority)
        taken = self.scheduler.taken
        idle = not taken and self.running is None
        try:
            self.scheduler.check(count, terms, self.now_s)
        except TooLarge:
            assert count > MAX_QUEUE_SIZE
        except QueueFull:
            assert taken + count > MAX_QUEUE_SIZE
        except Overloaded:
            assert self.policy.keeps_promises
            assert not idle
            assert due_s < NEVER_S
        else:
            request = Request(count, terms, shape)
            self.scheduler.hold(id(request), count, priority)
            # Whoever was late has given up the place.
            assert self.scheduler.taken <= MAX_QUEUE_SIZE
            self.held.append(request)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), alone=st.sampled_from([False, False, False, True]))
    def admit(self, data: st.DataObject, alone: bool) -> None:
        request = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        for _ in range(request.count):
            made = item(id(request), self.now_s, key=request.shape, alone=alone)
            made.terms = request.terms
            request.items.append(made)
            self.kept.append(made)
        self.scheduler.admit(id(request), request.items, 0.001)
        self.waiting.append(request)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def decoding_fails(self, data: st.DataObject) -> None:
        request = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.scheduler.withdraw(id(request))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        request = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        for each in request.items:
            self.answer(each)
        self.scheduler.withdraw(id(request), request.items)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def an_answer_is_no_longer_waited_for(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        self.answer(data.draw(st.sampled_from(request.items)))

    @rule(seconds=st.sampled_from([0.001, 0.010, 0.050, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.handlers_time_out()

    @precondition(lambda self: self.running is None)
    @rule()
    def device_is_free(self) -> None:
        arriving = len(self.held)
        decision = self.scheduler.next_batch(self.now_s, arriving, draining=self.draining)
        if isinstance(decision, Wait):
            self.check_wait(decision, arriving)
            return
        self.check_batch(decision)
        self.note_whom_it_passed(decision)
        decision.started_s = self.now_s
        self.scheduler.in_flight.add(decision)
        self.running = decision

    @precondition(lambda self: self.running is not None)
    @rule(slowness=st.sampled_from([0.5, 1.0, 1.0, 1.0, 3.0]), result=st.sampled_from("ssssfm"))
    def device_is_done(self, slowness: float, result: str) -> None:
        batch = self.running
        assert batch is not None
        batch.forward_s = slowness * (PASS_S + ITEM_S * len(batch))
        self.now_s += batch.forward_s
        self.scheduler.finished(batch, self.now_s, succeeded=result == "s")
        if result == "m":
            self.scheduler.memory.ran_out(batch.bucket_key, len(batch), self.now_s)
        self.running = None
        for each in batch.items:
            self.answer(each)
        self.handlers_time_out()

    @rule()
    def drain(self) -> None:
        self.draining = True

    # What handlers do.

    @staticmethod
    def answer(each: Item) -> None:
        if not each.future.done():
            each.future.cancel()

    def handlers_time_out(self) -> None:
        """Of those whose time is over, some have left, and some not yet."""
        for request in list(self.waiting):
            left = all(each.future.done() for each in request.items)
            if left or request.terms.deadline_s <= self.now_s - 0.010:
                self.waiting.remove(request)
                for each in request.items:
                    self.answer(each)
                self.scheduler.withdraw(id(request), request.items)

    # What must hold.

    def alive(self) -> list[Item]:
        """Items that wait, and may be computed."""
        return [
            each
            for request in self.waiting
            for each in request.items
            if not each.future.done()
            and id(each) not in self.batched
            and each.terms.deadline_s > self.now_s
        ]

    def check_wait(self, decision: Wait, arriving: int) -> None:
        assert decision.until_s > self.now_s, "a wait that is over already"
        if self.alive():
            assert arriving, "everybody waits for nobody"
            assert not self.draining
            assert decision.until_s < math.inf, "nobody will look again"

    def check_batch(self, batch: Batch) -> None:
        alive = {id(each) for each in self.alive()}
        assert 1 <= len(batch) <= min(N, self.scheduler.memory.of(batch.bucket_key, self.now_s))
        assert {each.bucket_key for each in batch.items} == {batch.bucket_key}
        assert len({id(each) for each in batch.items}) == len(batch)
        for each in batch.items:
            assert id(each) in alive, "it has left, its time is over, or it was in another batch"
            assert not each.alone or len(batch) == 1
        self.batched |= {id(each) for each in batch.items}
        by_request: dict[Hashable, list[Item]] = {}
        for each in batch.items:
            by_request.setdefault(each.request, []).append(each)
        for request in self.waiting:
            taken = by_request.get(id(request), [])
            order = [each for each in request.items if any(each is one for one in taken)]
            assert all(a is b for a, b in zip(order, taken, strict=True)), "not in order"
            assert not taken or self.is_first(request, taken[0]), "out of turn"
        if batch.reason is CloseReason.DRAIN:
            assert self.draining

    def is_first(self, request: Request, taken: Item) -> bool:
        """Whether no item before this one could have gone."""
        for each in request.items:
            if each is taken:
                return True
            if id(each) not in self.batched and not each.future.done():
                return False
        return False

    def note_whom_it_passed(self, batch: Batch) -> None:
        """Bound for how many batches the next item of a request that is in time can wait."""
        firsts: dict[Hashable, Item] = {}
        for each in self.alive():
            firsts.setdefault(each.request, each)
        served = {each.request for each in batch.items}
        for request, each in firsts.items():
            if request in served:
                self.passed.pop(id(each), None)
            elif each.terms.due_s >= NEVER_S:
                self.passed[id(each)] = self.passed.get(id(each), 0) + 1
                # Everybody of its priority may come before it, and meanwhile the others' shares.
                most = len(SHAPES) * MAX_QUEUE_SIZE * sum(WEIGHTS.values())
                most //= WEIGHTS[each.terms.priority]
                assert self.passed[id(each)] <= most, "it starves"

    @invariant()
    def what_waits_is_counted(self) -> None:
        buckets = self.scheduler._buckets
        assert self.scheduler.queued == sum(map(len, buckets.values()))
        assert all(len(bucket) for bucket in buckets.values()), "an empty bucket is left"
        held = sum(request.count for request in self.held)
        assert self.scheduler.taken == self.scheduler.queued + held <= MAX_QUEUE_SIZE
        assert self.scheduler.queued >= len(self.alive()), "an item is lost"
        assert self.scheduler.in_flight.items == (len(self.running) if self.running else 0)

    @invariant()
    def what_is_ahead_can_be_told(self) -> None:
        backlog_s = self.scheduler.backlog_s(self.now_s)
        assert 0.0 <= backlog_s < math.inf

    def teardown(self) -> None:
        """Let everything come to its end: nothing is left."""
        for request in self.held:
            self.scheduler.withdraw(id(request))
        self.held = []
        self.draining = True
        for _ in range(10 * MAX_QUEUE_SIZE):
            if self.running is not None:
                self.device_is_done(1.0, "s")
            self.device_is_free()
            if self.running is None:
                break
        assert self.alive() == [], "nobody computes these"
        for request in self.waiting:
            self.scheduler.withdraw(id(request), request.items)
        check_scheduler_empty(self.scheduler)


class FixedMachine(SchedulerMachine):
    """As above, with a policy that keeps no promises and waits for nobody."""

    policy = FixedPolicy(N, 0.020)

    def check_wait(self, decision: Wait, arriving: int) -> None:
        assert decision.until_s > self.now_s, "a wait that is over already"
        if self.alive():
            assert not self.draining
            oldest_s = min(each.queued_s for each in self.alive())
            assert decision.until_s <= oldest_s + 0.020 + 1e-6


TestAdaptiveScheduler = SchedulerMachine.TestCase
TestAdaptiveScheduler.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestFixedScheduler = FixedMachine.TestCase
TestFixedScheduler.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)

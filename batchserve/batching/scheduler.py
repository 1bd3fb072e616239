"""What waits, what goes next, and who is let in: all decisions of the batcher, and no waiting.

The time comes in as an argument, so that tests and simulations run exactly what production runs.
The mutable state is the buckets of items, the places that are held for requests which are being
decoded, and what is in flight.
"""

import math
from collections.abc import Hashable, Iterable, Sequence

from batchserve.batch import Batch, CloseReason, Item, Priority, Terms
from batchserve.batching.admission import (
    MOST_MARGIN,
    Backlog,
    check_places,
    check_promise,
    held_up_s,
    is_in_time,
)
from batchserve.batching.arrivals import Arrivals
from batchserve.batching.bucket import Bucket, Lane, Load
from batchserve.batching.cost import Cost
from batchserve.batching.in_flight import InFlight
from batchserve.batching.memory_limit import MemoryLimit
from batchserve.batching.policy import Close, Policy, View, Wait
from batchserve.batching.shares import Shares
from batchserve.batching.toll import Toll
from batchserve.errors import Overloaded

# How fast a change of what decoding takes is followed.
DECODE_WEIGHT = 0.1
# An item that only a batch slower than this share of the best rate could save is late.
WORTH_SAVING = 0.9
# For how long a late item is still tried, as a share of what it was promised.
LATENESS = 1.0
# A pass that seems to have taken less than this share of its time began before that.
UNNOTICED = 0.7
# How cautious to be with those who were let in.
DEVIATIONS_WHEN_ADMITTED = 1.5


class Scheduler:
    """The queue of one model version.

    Args:
        policy: decides when a batch is closed, and how large.
        cost: what passes take.
        max_queue_size: items that may wait.
        streams: passes that run at the same time.
    """

    def __init__(
        self,
        policy: Policy,
        cost: Cost,
        max_queue_size: int,
        streams: int = 1,
    ) -> None:
        self.policy = policy
        self.cost = cost
        self.memory = MemoryLimit(policy.max_batch_size)
        self.in_flight = InFlight(cost, streams)
        self._streams = streams
        self._max_queue_size = max_queue_size
        self._buckets: dict[Hashable, Bucket] = {}
        self._shares = Shares()
        self.queued = 0  # items that wait for a pass
        self._held: dict[Hashable, tuple[Priority, int]] = {}
        self._places_held = 0
        self._toll = Toll()
        self._free_since_s = 0.0
        self._decode_s = 0.0
        self._arrivals = Arrivals(company=policy.max_batch_size)

    # Who is let in.

    def check(self, count: int, terms: Terms, now_s: float) -> None:
        """Raise if so many more items have no place, or cannot be answered in time.

        Raises:
            TooLarge: there are more than could ever wait.
            QueueFull: there is no place for them now.
            Overloaded: they would be late.
        """
        over = self.queued + self._places_held + count - self._max_queue_size
        if over > 0 and over > self._late:
            backlog = self.backlog(now_s)
            check_places(count, self.taken, self._max_queue_size, backlog, self.cost)
        if self.policy.keeps_promises and not self._is_surely_in_time(count, terms, now_s):
            check_promise(count, terms, now_s, self.backlog(now_s), self.cost)

    def terms_for(self, count: int, terms: Terms) -> Terms:
        """Return what is promised to so many items: more than a batch may take its own time."""
        usual = self.cost.knee(None)
        if count <= usual:
            return terms
        own_s, usual_s = self.cost.seconds_for(None, count), self.cost.seconds(None, usual)
        more_s = own_s - usual_s
        return terms.postponed(more_s + self.cost.margin_s(more_s))

    def hold(self, request: Hashable, count: int, priority: Priority) -> None:
        """Hold places for a request while it is decoded; late items give up theirs if need be."""
        self._give_up_late(self.taken + count - self._max_queue_size)
        self._held[request] = (priority, count)
        self._places_held += count

    def admit(self, request: Hashable, items: Sequence[Item], decode_s: float) -> None:
        """Put a request's items on the queue, in the places that are held for it, if any are."""
        if self._held:
            self._release(request)
        self._give_up_late(self.taken + len(items) - self._max_queue_size)
        self._decode_s += DECODE_WEIGHT * (decode_s - self._decode_s)
        for item in items:
            self._put(item)

    def withdraw(self, request: Hashable, items: Iterable[Item] = ()) -> None:
        """Forget a request and what waits of its items."""
        self._release(request)
        for key in {item.bucket_key for item in items}:
            bucket = self._buckets.get(key)
            if bucket is not None:
                self.queued -= bucket.withdraw(request)
                self._forget_if_empty(bucket)

    def take_all(self) -> list[Item]:
        """Take everything that waits, whatever becomes of it."""
        self.in_flight.retry_nothing()
        items = [item for bucket in self._buckets.values() for item in bucket.take_all()]
        self._buckets.clear()
        self.queued = 0
        return items

    @property
    def taken(self) -> int:
        """Places in the queue: with an item in them, or held for one that is being decoded."""
        return self.queued + self._places_held

    # What goes next.

    def next_batch(
        self, now_s: float, arriving: int, *, draining: bool, only_full: bool = False
    ) -> Batch | Wait:
        """Return the batch to compute next, or until when to wait for more.

        Args:
            now_s: when the device is free.
            arriving: requests that are being read or decoded.
            draining: nobody is waited for.
            only_full: whoever may still come is waited for in any case.
        """
        until_s = math.inf
        for bucket in list(self._buckets.values()):
            self._give_up(bucket, now_s)
        for bucket in sorted(self._buckets.values(), key=self._turn_of):
            view = self._view(bucket, now_s, arriving, draining=draining)
            decision = self.policy.decide(bucket, view)
            if isinstance(decision, Wait):
                until_s = min(until_s, decision.until_s)
                continue
            if only_full and decision.reason is not CloseReason.FULL:
                continue
            items, reason = self._fill(bucket, decision, now_s)
            self._forget_if_empty(bucket)
            if items:
                all_cores = not (arriving or self.queued or self.in_flight.items)
                return Batch(items, reason, now_s, all_cores=all_cores)
        return Wait(until_s)

    def holds_full_batch(self, now_s: float) -> bool:
        """Whether the next batch would not grow, whoever came."""
        bucket = min(self._buckets.values(), key=self._turn_of, default=None)
        if bucket is None:
            return False
        decision = self.policy.decide(bucket, self._view(bucket, now_s, arriving=1, draining=False))
        return isinstance(decision, Close) and decision.reason is CloseReason.FULL

    def finished(self, batch: Batch, now_s: float, *, succeeded: bool) -> None:
        """A pass has ended, after `batch.forward_s`."""
        self.in_flight.remove(batch, now_s)
        self._free_since_s = now_s
        self._toll.observe(batch.forward_s, again=batch.reason is CloseReason.RETRY)
        if succeeded:
            if not (self._began_unnoticed(batch) or self._had_more_than_its_share(batch)):
                self.cost.observe(batch.bucket_key, len(batch), batch.forward_s)
            self.memory.sufficed(batch.bucket_key, len(batch), now_s)
            self.policy.observe(batch)

    def _began_unnoticed(self, batch: Batch) -> bool:
        """Whether the end of the pass before was noticed so late that this tells nothing."""
        expected_s = self.cost.seconds(batch.bucket_key, len(batch))
        return batch.is_ahead and batch.forward_s < UNNOTICED * expected_s

    def _had_more_than_its_share(self, batch: Batch) -> bool:
        """Whether passes will take longer than this one once there are several."""
        return self._streams > 1 and batch.all_cores

    def _view(self, bucket: Bucket, now_s: float, arriving: int, *, draining: bool) -> View:
        most = self.memory.of(bucket.key, now_s)
        return View(now_s, self._free_since_s, arriving, draining, self.cost, most)

    def _turn_of(self, bucket: Bucket) -> tuple[float, Priority, float]:
        """Whoever's priority has had least comes first, then whoever waits longest for a turn."""
        priority = bucket.next_priority(self._shares)
        if priority is None:
            return math.inf, Priority.BULK, bucket.late.since_s
        return self._shares.had(priority), priority, bucket.lanes[priority].since_s

    def _fill(self, bucket: Bucket, close: Close, now_s: float) -> tuple[list[Item], CloseReason]:
        """Take items in the order of their turns, as long as nothing in the batch becomes late."""
        items: list[Item] = []
        due_s = math.inf
        # Whoever is due after a batch of any size could be done needs no closer look.
        at_last_s = now_s + self.cost.bound(bucket.key, close.most)
        while len(items) < close.most and (priority := bucket.next_priority(self._shares)):
            lane = bucket.lanes[priority]
            item = lane.first
            tightest_s = min(due_s, item.terms.due_s)
            if self._is_dead(item, now_s):
                self._pop(lane, now_s)
            elif item.alone and items:
                return items, CloseReason.FULL
            elif item.alone:
                self._shares.charge(priority)
                return [self._pop(lane, now_s)], CloseReason.FULL
            elif tightest_s >= at_last_s or not self._is_late(
                bucket, len(items) + 1, tightest_s, now_s
            ):
                self._shares.charge(priority)
                due_s = tightest_s
                items.append(self._pop(lane, now_s))
            elif not items or self._is_hopeless(bucket, item, now_s):
                self._put_late(bucket, self._pop(lane, now_s), now_s)
            else:
                return items, CloseReason.DEADLINE
        self._fill_up_with_late(bucket, items, close.most, due_s, now_s)
        return items, close.reason

    def _fill_up_with_late(
        self, bucket: Bucket, items: list[Item], most: int, due_s: float, now_s: float
    ) -> None:
        while bucket.late and len(items) < most:
            if self._is_late(bucket, len(items) + 1, due_s, now_s):
                return
            item = self._pop(bucket.late, now_s)
            if not self._is_dead(item, now_s):
                items.append(item)

    def _is_late(self, bucket: Bucket, size: int, due_s: float, now_s: float) -> bool:
        """Whether a batch of this size, begun now, would miss this time."""
        expected_s = self.cost.seconds(bucket.key, size)
        # Admission has been cautious; to be so again would shrink batches, and make others late.
        margin_s = self.cost.margin_s(expected_s, DEVIATIONS_WHEN_ADMITTED)
        return self.policy.keeps_promises and not is_in_time(expected_s, margin_s, due_s - now_s)

    def _is_hopeless(self, bucket: Bucket, item: Item, now_s: float) -> bool:
        """Whether an item cannot be in time at all, or only in a batch that holds up the rest."""
        size = min(self.cost.size_worth(bucket.key, WORTH_SAVING, self.cost.largest), len(bucket))
        return self._is_late(bucket, size, item.terms.due_s, now_s)

    def _put(self, item: Item) -> None:
        bucket = self._buckets.get(item.bucket_key)
        if bucket is None:
            bucket = self._buckets[item.bucket_key] = Bucket(item.bucket_key)
        priority = item.terms.priority
        lane = bucket.lanes[priority]
        if not lane.size:
            self._join(priority)
        lane.append(item)
        self._arrivals.came(priority, item.queued_s)
        self.queued += 1

    def _join(self, priority: Priority) -> None:
        waiting = {
            other
            for bucket in self._buckets.values()
            for other, lane in bucket.lanes.items()
            if lane.size
        }
        if priority not in waiting:
            self._shares.join(priority, waiting)

    def _pop(self, lane: Lane, now_s: float) -> Item:
        self.queued -= 1
        return lane.pop(now_s)

    @staticmethod
    def _is_dead(item: Item, now_s: float) -> bool:
        """Whether nobody waits for an item any more; if it is too late, they are told so."""
        if item.terms.deadline_s <= now_s:
            item.expire()
        return item.future.done()

    @property
    def _late(self) -> int:
        return sum(len(bucket.late) for bucket in self._buckets.values())

    def _give_up_late(self, count: int) -> None:
        """Have late items give their places to those who can still be in time."""
        if count <= 0:
            return
        for bucket in list(self._buckets.values()):
            while bucket.late and count > 0:
                item = bucket.late.pop(math.inf)
                self.queued -= 1
                count -= 1
                item.fail(Overloaded("it could not be computed in time, and others need its place"))
            self._forget_if_empty(bucket)

    def _put_late(self, bucket: Bucket, item: Item, now_s: float) -> None:
        # Nobody shall wait for ever behind those who are in time, nor take their places.
        promised_s = LATENESS * (item.terms.due_s - item.queued_s)
        a_pass_s = self.cost.bound(bucket.key, self.cost.knee(bucket.key))
        patience_s = now_s + max(promised_s, a_pass_s)
        item.terms = item.terms._replace(deadline_s=min(item.terms.deadline_s, patience_s))
        bucket.late.append(item)
        self.queued += 1

    def _give_up(self, bucket: Bucket, now_s: float) -> None:
        """Answer those that have been late for too long."""
        while bucket.late and self._is_dead(bucket.late.first, now_s):
            self._pop(bucket.late, now_s)
        self._forget_if_empty(bucket)

    def _forget_if_empty(self, bucket: Bucket) -> None:
        if not bucket:
            del self._buckets[bucket.key]

    def _release(self, request: Hashable) -> None:
        if held := self._held.pop(request, None):
            self._places_held -= held[1]

    # What a newcomer has to expect.

    def backlog(self, now_s: float) -> Backlog:
        """Return what is ahead of whoever comes now."""
        loads: dict[Hashable, dict[Priority, Load]] = {
            bucket.key: bucket.loads() for bucket in self._buckets.values()
        }
        if self._held:
            loads[None] = self._loads_held()
        slack_s = {bucket.key: bucket.due_s - now_s for bucket in self._buckets.values()}
        return Backlog(
            loads, self.in_flight.busy_s(now_s), self._decode_s, self._arrivals.rate(now_s),
            self._arrivals.rates(now_s), slack_s, self._toll.factor, self._streams,
        )  # fmt: skip

    def _is_surely_in_time(self, count: int, terms: Terms, now_s: float) -> bool:
        """Whether even one by one all would be computed in time: most often, and soon told."""
        waiting = self.queued + self._places_held
        busy_s = self.in_flight.busy_s(now_s)
        if not (waiting or busy_s):
            return True
        seconds = self.cost.seconds
        # As if all that waits were of the kind that takes longest.
        alone_s = max([seconds(None, 1), *[seconds(key, 1) for key in self._buckets]])
        coming = self._arrivals.rate(now_s) * busy_s if busy_s else 0.0
        expected_s = busy_s + (waiting + count + coming) * alone_s + self._decode_s
        if self._arrivals.are_mixed:
            rates = self._arrivals.rates(now_s)
            expected_s += held_up_s(expected_s, terms.priority, rates, alone_s)
        # Whatever the margin would be.
        return expected_s * self._toll.factor <= (1 - MOST_MARGIN) * (terms.due_s - now_s)

    def backlog_s(self, now_s: float) -> float:
        """Return how long it takes to compute what is running and what waits."""
        backlog = self.backlog(now_s)
        return backlog.busy_s + backlog.seconds(self.cost)

    def _loads_held(self) -> dict[Priority, Load]:
        loads: dict[Priority, Load] = {}
        for priority, count in self._held.values():
            before = loads.get(priority, Load(0, 0))
            loads[priority] = Load(before.items + count, before.requests + 1)
        return loads

    def __repr__(self) -> str:
        return f"<Scheduler | {self.queued} queued, {self.in_flight.items} in flight>"

"""What a newcomer may expect: arithmetic over what waits, what is running and what it costs."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from batchserve.batch import Priority, Terms
from batchserve.batching.bucket import Load
from batchserve.batching.cost import Cost
from batchserve.batching.shares import WEIGHTS
from batchserve.errors import Overloaded, QueueFull, TooLarge

# Of the time that is left, no more is kept as a margin.
MOST_MARGIN = 0.15
# Of those who pass whoever waits, in standard deviations: as many more may come as usual.
COMING_DEVIATIONS = 2.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is ahead of a newcomer.

    Attributes:
        loads: by bucket and priority; None is the bucket of what is still being decoded.
        busy_s: for how long no other batch can begin.
        decode_s: what decoding takes, before an item is on the queue.
        rate: items per second that have come lately.
        rates: by priority, over a longer time.
        slack_s: by bucket, for how long the item that is next can still wait for its answer.
        toll: by how much longer everything takes than its passes, because some fail.
        streams: passes that run at the same time.
    """

    loads: Mapping[Hashable, Mapping[Priority, Load]]
    busy_s: float
    decode_s: float
    rate: float
    rates: Mapping[Priority, float]
    slack_s: Mapping[Hashable, float]
    toll: float = 1.0
    streams: int = 1

    @property
    def is_empty(self) -> bool:
        return not self.loads and not self.busy_s

    def seconds(self, cost: Cost) -> float:
        """Return how long it takes to compute everything that waits."""
        seconds = sum(
            cost.seconds_for(key, sum(load.items for load in loads.values()))
            for key, loads in self.loads.items()
        )
        return seconds / self.streams


def check_places(count: int, taken: int, max_queue_size: int, backlog: Backlog, cost: Cost) -> None:
    """Raise if so many more items do not fit in the queue.

    Raises:
        TooLarge: they could never fit.
        QueueFull: they do not fit now.
    """
    if count > max_queue_size:
        raise TooLarge(
            f"{count} inputs in one request; at most max_queue_size={max_queue_size} can ever "
            f"wait, so send them in several requests"
        )
    if taken + count > max_queue_size:
        raise QueueFull(
            f"{taken} of max_queue_size={max_queue_size} places are taken, and {count} more are "
            f"needed",
            retry_after_s=whole_seconds(backlog.busy_s + backlog.seconds(cost)),
        )


def check_promise(count: int, terms: Terms, now_s: float, backlog: Backlog, cost: Cost) -> None:
    """Raise if so many items cannot be answered in time.

    Raises:
        Overloaded: with the time after which they could be.
    """
    if backlog.is_empty:
        # Nobody is held up, and an estimate that is too high would never be put right.
        return
    left_s = terms.due_s - now_s
    expected_s = backlog.toll * seconds_until_done(count, terms.priority, backlog, cost)
    margin_s = cost.margin_s(expected_s)
    if not is_in_time(expected_s, margin_s, left_s):
        late_s = max(0.0, expected_s + min(margin_s, MOST_MARGIN * left_s) - left_s)
        raise Overloaded(
            f"the answer would come {late_s:.3g} s after it is due, because of what waits already",
            retry_after_s=whole_seconds(late_s),
        )


def is_in_time(expected_s: float, margin_s: float, left_s: float) -> bool:
    """Whether what is expected to take so long will be over in time, if some margin is kept.

    On a machine on which nothing can be foretold, to be sure would be to let nobody in.
    """
    return expected_s + min(margin_s, MOST_MARGIN * left_s) <= left_s


def seconds_until_done(count: int, priority: Priority, backlog: Backlog, cost: Cost) -> float:
    """Return after how many seconds so many new items are expected to be answered.

    Their last pass will be shared by those who come until it starts; if it were taken for a small
    one, whoever is let in would reach the head of the queue with no time left for a full batch.
    """
    ahead = {key: items_ahead(count, priority, loads) for key, loads in backlog.loads.items()}
    decoding = ahead.pop(None, 0)
    # Which bucket they will wait in is not known before they are decoded: where most do, probably.
    own = max(ahead, key=ahead.__getitem__, default=None)
    position = ahead.pop(own, 0) + decoding + count
    knee = cost.knee(own)
    before = (position - 1) // knee * knee
    waiting_s = cost.seconds_for(own, before)
    waiting_s += sum(cost.seconds_for(key, items) for key, items in ahead.items())
    an_item_s = cost.seconds(own, knee) / knee / backlog.streams
    free_s = backlog.busy_s + waiting_s / backlog.streams
    free_s += held_up_s(free_s, priority, backlog.rates, an_item_s)
    by_share_s = backlog.busy_s + an_item_s * items_by_share(count, priority, backlog)
    starts_s = max(backlog.decode_s, min(free_s, by_share_s))
    left_s = backlog.slack_s.get(own, math.inf)
    joined_s = starts_s + cost.seconds(own, position)
    if not before and not is_in_time(joined_s, cost.margin_s(joined_s), left_s):
        # With the newcomer in it, the next batch would be late; so it will go without.
        starts_s += cost.seconds(own, position - 1) / backlog.streams
        before = position - 1
    company = math.ceil(starts_s * backlog.rate)
    return starts_s + cost.seconds(own, min(knee, position - before + company))


def items_ahead(count: int, priority: Priority, loads: Mapping[Priority, Load]) -> int:
    """Return how many of the items that wait are served before the last of `count` new ones.

    All of higher priority; of the same, as many turns of each request as the newcomer needs; of
    lower ones, their share meanwhile.
    """
    higher = sum(load.items for other, load in loads.items() if other < priority)
    same = loads.get(priority, Load(0, 0))
    ahead = higher + min(same.items, count * same.requests)
    shares = sum(
        min(load.items, math.ceil((ahead + count) * WEIGHTS[other] / WEIGHTS[priority]))
        for other, load in loads.items()
        if other > priority
    )
    return ahead + shares


def held_up_s(
    waits_s: float, priority: Priority, rates: Mapping[Priority, float], an_item_s: float
) -> float:
    """Return for how much longer one waits because others of other priorities come meanwhile.

    Args:
        waits_s: what one would wait if nobody came.
        priority: of who waits.
        rates: items per second that come, by priority.
        an_item_s: what each of them takes of the device's time.
    """
    higher = sum(rate for other, rate in rates.items() if other < priority)
    lower = sum(
        min(rate * an_item_s, WEIGHTS[other] / (WEIGHTS[other] + WEIGHTS[priority]))
        for other, rate in rates.items()
        if other > priority
    )
    left = 1 - higher * an_item_s - lower
    if left <= 0:
        return math.inf
    until_s = waits_s / left
    return until_s - waits_s + COMING_DEVIATIONS * math.sqrt(higher * until_s) * an_item_s


def items_by_share(count: int, priority: Priority, backlog: Backlog) -> float:
    """Return after how many items the last of `count` new ones is served, whoever passes it.

    Its priority has its share: of the items that are served, so many are its own. Infinity: there
    is nobody who could pass it.
    """
    same = 0
    present = {other for other, rate in backlog.rates.items() if rate} | {priority}
    for loads in backlog.loads.values():
        present |= loads.keys()
        load = loads.get(priority)
        same += min(load.items, count * load.requests) if load else 0
    if min(present) == priority:
        return math.inf
    return (same + count) * sum(WEIGHTS[other] for other in present) / WEIGHTS[priority]


def whole_seconds(seconds: float) -> int:
    """Return what goes into Retry-After (RFC 9110, 10.2.3): whole seconds, at least 1."""
    return max(1, math.ceil(seconds))

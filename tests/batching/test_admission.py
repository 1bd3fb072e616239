"""What a newcomer may expect, reckoned by hand."""

import math
import random
from typing import Any

import pytest

from batchserve.batch import Batch, CloseReason, Priority, Terms
from batchserve.batching.admission import (
    COMING_DEVIATIONS,
    Backlog,
    check_places,
    check_promise,
    held_up_s,
    items_ahead,
    items_by_share,
    seconds_until_done,
    whole_seconds,
)
from batchserve.batching.bucket import Load
from batchserve.batching.cost import Cost
from batchserve.batching.policy import AdaptivePolicy
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import Overloaded, QueueFull, TooLarge
from tests.batching.items import BULK, INTERACTIVE, NEVER_S, NORMAL, item, put

N = 4
# One item at a time: 1 s each, and no sharing.
ONE_BY_ONE = {1: 1.0, 4: 4.0}


def cost_of(seed: dict[int, float]) -> Cost:
    """Return a cost that knows exactly what passes take, so that nothing is left to caution."""
    cost = Cost(max(seed), seed)
    for _ in range(500):
        for size, seconds in seed.items():
            cost.observe("key", size, seconds)
    assert cost.margin_s(1.0) == pytest.approx(0.0)
    return cost


def backlog(loads: dict[Any, dict[Priority, Load]] | None = None, **changes: Any) -> Backlog:
    usual: dict[str, Any] = {
        "busy_s": 0.0,
        "decode_s": 0.0,
        "rate": 0.0,
        "rates": {},
        "slack_s": {},
    }
    return Backlog(loads or {}, **{**usual, **changes})


# Who is ahead.


@pytest.mark.parametrize(
    ("count", "requests", "ahead"),
    [(1, 1, 1), (1, 5, 5), (2, 5, 10), (3, 2, 6), (100, 5, 40), (1, 40, 40)],
)
def test_of_ones_own_priority_as_many_turns_of_each_request_as_one_needs(count, requests, ahead):
    assert items_ahead(count, NORMAL, {NORMAL: Load(40, requests)}) == ahead


def test_of_higher_priorities_all():
    loads = {INTERACTIVE: Load(30, 1), NORMAL: Load(40, 2)}
    assert items_ahead(1, NORMAL, loads) == 30 + 2
    assert items_ahead(1, BULK, loads) == 70


def test_of_lower_priorities_their_share_meanwhile():
    # One of bulk and four of normal with each sixteen of interactive, rounded up.
    loads = {NORMAL: Load(40, 1), BULK: Load(40, 1)}
    assert items_ahead(16, INTERACTIVE, loads) == 4 + 1
    assert items_ahead(1, INTERACTIVE, loads) == 1 + 1
    assert items_ahead(8, NORMAL, {BULK: Load(40, 1)}) == 2
    assert items_ahead(8, NORMAL, {BULK: Load(1, 1)}) == 1


def test_with_nobody_waiting_nobody_is_ahead():
    assert items_ahead(5, NORMAL, {}) == 0


# How long that takes.


def test_alone_it_takes_ones_own_passes():
    cost = cost_of(ONE_BY_ONE)
    assert seconds_until_done(1, NORMAL, backlog(), cost) == pytest.approx(1.0)
    assert seconds_until_done(3, NORMAL, backlog(), cost) == pytest.approx(3.0)


def test_what_is_ahead_and_what_is_running_come_first():
    ahead = backlog({"key": {NORMAL: Load(5, 5)}}, busy_s=0.5)
    assert seconds_until_done(1, NORMAL, ahead, cost_of(ONE_BY_ONE)) == pytest.approx(6.5)


def test_a_higher_priority_waits_for_its_own_only():
    ahead = backlog({"key": {INTERACTIVE: Load(2, 2), NORMAL: Load(30, 30)}})
    cost = cost_of(ONE_BY_ONE)
    # Two of its own, itself, and one with which the others get their share.
    assert seconds_until_done(1, INTERACTIVE, ahead, cost) == pytest.approx(4.0)
    assert seconds_until_done(1, NORMAL, ahead, cost) == pytest.approx(33.0)


def test_what_waits_in_all_buckets_and_at_the_decoder_counts():
    ahead = backlog(
        {"key": {NORMAL: Load(3, 3)}, "b": {NORMAL: Load(2, 2)}, None: {NORMAL: Load(1, 1)}}
    )
    assert seconds_until_done(1, NORMAL, ahead, cost_of(ONE_BY_ONE)) == pytest.approx(7.0)


def test_decoding_and_computing_go_on_at_the_same_time():
    cost = cost_of(ONE_BY_ONE)
    slow, quick = [backlog(busy_s=5.0, decode_s=decode_s) for decode_s in (9.0, 1.0)]
    assert seconds_until_done(1, NORMAL, slow, cost) == pytest.approx(10.0)
    assert seconds_until_done(1, NORMAL, quick, cost) == pytest.approx(6.0)


def test_whoever_comes_shares_the_next_batch_while_it_has_room():
    # A pass takes 1 s, and 0.1 s for each item.
    cost = cost_of({1: 1.1, 2: 1.2, 4: 1.4})
    three, four = [backlog({"key": {NORMAL: Load(many, many)}}) for many in (3, 4)]
    assert seconds_until_done(1, NORMAL, three, cost) == pytest.approx(1.4)
    assert seconds_until_done(1, NORMAL, four, cost) == pytest.approx(1.4 + 1.1)


def test_others_will_come_and_share_it_too():
    cost = cost_of({1: 1.1, 2: 1.2, 4: 1.4})
    ahead = backlog({"key": {NORMAL: Load(4, 4)}}, rate=1.0)
    # Two more until the second batch starts.
    assert seconds_until_done(1, NORMAL, ahead, cost) == pytest.approx(1.4 + 1.3)
    crowded = backlog({"key": {NORMAL: Load(4, 4)}}, rate=1000.0)
    assert seconds_until_done(1, NORMAL, crowded, cost) == pytest.approx(1.4 + 1.4)


def test_whoever_would_make_the_next_batch_late_comes_after_it():
    cost = cost_of({1: 1.1, 2: 1.2, 4: 1.4})
    ahead = backlog({"key": {NORMAL: Load(2, 2)}}, slack_s={"key": 1.25})
    assert seconds_until_done(1, NORMAL, ahead, cost) == pytest.approx(1.2 + 1.1)


# Who is refused.


def test_a_promise_that_can_be_kept_is_made_and_one_that_cannot_is_not():
    ahead, cost = backlog({"key": {NORMAL: Load(5, 5)}}), cost_of(ONE_BY_ONE)
    check_promise(1, Terms(106.001, NEVER_S), 100.0, ahead, cost)
    with pytest.raises(Overloaded, match="1 s after it is due"):
        check_promise(1, Terms(105.0, NEVER_S), 100.0, ahead, cost)


@pytest.mark.parametrize(("due_s", "retry_after_s"), [(5.9, 1), (4.5, 2), (0.5, 6)])
def test_retry_after_is_how_much_too_late_it_would_be(due_s, retry_after_s):
    ahead = backlog({"key": {NORMAL: Load(5, 5)}})
    with pytest.raises(Overloaded) as refused:
        check_promise(1, Terms(due_s, NEVER_S), 0.0, ahead, cost_of(ONE_BY_ONE))
    assert refused.value.retry_after_s == retry_after_s


def test_on_an_idle_device_nobody_is_refused():
    check_promise(100, Terms(0.0, 0.0), 50.0, backlog(), cost_of(ONE_BY_ONE))


def test_while_nothing_is_known_of_the_cost_nobody_who_is_not_late_yet_is_refused():
    ahead = backlog({"key": {NORMAL: Load(99, 9)}}, busy_s=0.01)
    check_promise(1, Terms(0.02, NEVER_S), 0.0, ahead, Cost(N))


def test_a_full_queue_says_after_how_long_it_will_be_empty():
    full = backlog({"key": {NORMAL: Load(6, 1)}, None: {BULK: Load(3, 1)}}, busy_s=0.5)
    with pytest.raises(QueueFull, match="9 of max_queue_size=10 places are taken") as refused:
        check_places(2, 9, 10, full, cost_of(ONE_BY_ONE))
    assert refused.value.retry_after_s == 10
    check_places(1, 9, 10, full, cost_of(ONE_BY_ONE))


def test_what_can_never_fit_is_too_large_even_now():
    with pytest.raises(TooLarge, match="max_queue_size=10"):
        check_places(11, 0, 10, backlog(), Cost(N))


@pytest.mark.parametrize(("seconds", "whole"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2)])
def test_retry_after_is_in_whole_seconds_and_at_least_one(seconds, whole):
    assert whole_seconds(seconds) == whole


def test_what_waits_in_an_expensive_bucket_is_not_taken_for_what_was_seen_last():
    cost = Cost(N, {1: 0.001, 4: 0.004})
    for _ in range(40):
        cost.observe("expensive", 1, 1.0)
    for _ in range(40):
        cost.observe("cheap", 1, 0.001)
    assert cost.seconds("cheap", 1) < 0.002
    assert cost.seconds("expensive", 1) > 0.5
    scheduler = Scheduler(AdaptivePolicy(N), cost, 100)
    put(scheduler, *[item(i, key="expensive") for i in range(10)])
    with pytest.raises(Overloaded):
        scheduler.check(1, Terms(0.5, 0.5), 0.0)


# And whoever is let in is in time.


def serve_under_load(load: float, noise: float, seconds: float) -> tuple[int, int, int]:
    """Return how many were let in, how many of them were late, and how many were refused."""
    chance = random.Random(5)
    seed = {size: 0.008 + 0.001 * size for size in (1, 2, 4, 8)}
    scheduler = Scheduler(AdaptivePolicy(8), Cost(8, seed), 256)
    rate = load * 8 / seed[8]
    now_s = free_s = 0.0
    number = late = refused = 0
    running: Batch | None = None
    while now_s < seconds:
        now_s += chance.expovariate(rate)
        while free_s <= now_s:
            if running is not None:
                scheduler.finished(running, free_s, succeeded=True)
                late += sum(each.terms.due_s < free_s for each in running.items)
                running = None
            decision = scheduler.next_batch(free_s, 0, draining=False)
            if not isinstance(decision, Batch):
                free_s = math.inf
                break
            running = decision
            running.started_s = free_s
            running.forward_s = (0.008 + 0.001 * len(running)) * chance.lognormvariate(0, noise)
            scheduler.in_flight.add(running)
            free_s += running.forward_s
        number += 1
        terms = Terms(now_s + 0.060, now_s + 30.0)
        try:
            scheduler.check(1, terms, now_s)
        except Overloaded:
            refused += 1
            continue
        put(scheduler, item(number, now_s, due_s=terms.due_s, deadline_s=terms.deadline_s))
        free_s = min(free_s, max(now_s, free_s if running else now_s))
    return number - refused, late, refused


@pytest.mark.parametrize("load", [0.5, 0.9, 1.5, 3.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_whoever_is_let_in_is_answered_in_time_and_the_device_stays_busy(load, noise):
    seconds = 20.0
    let_in, late, refused = serve_under_load(load, noise, seconds)
    assert late <= 0.01 * let_in
    capacity = 8 / 0.016 * seconds
    assert let_in >= 0.85 * min(1.0, load) * capacity
    if load <= 0.5:
        assert refused <= 0.01 * let_in


def test_a_pass_that_is_over_its_time_may_go_on_as_long():
    scheduler = Scheduler(AdaptivePolicy(1), cost_of({1: 1.0}), 10)
    put(scheduler, item("a"))
    batch = scheduler.next_batch(0.0, 0, draining=False)
    assert isinstance(batch, Batch)
    batch.started_s = 0.0
    scheduler.in_flight.add(batch)
    left_s = [scheduler.backlog_s(now_s) for now_s in (0.25, 1.5, 9.0)]
    assert left_s == pytest.approx([0.75, 0.5, 8.0])
    batch.forward_s = 9.0
    scheduler.finished(batch, 9.0, succeeded=True)
    assert scheduler.backlog_s(9.0) == 0.0


def test_what_the_device_has_been_given_to_go_on_with_is_ahead_of_everybody():
    scheduler = Scheduler(AdaptivePolicy(1), cost_of({1: 1.0}), 10)
    put(scheduler, item("a"), item("b"))
    first, second = (scheduler.next_batch(0.0, 0, draining=False) for _ in range(2))
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    for batch in (first, second):
        scheduler.in_flight.add(batch)
    assert scheduler.in_flight.items == 2
    assert scheduler.backlog_s(0.25) == pytest.approx(0.75 + 1.0)
    assert scheduler.in_flight.ends_s == math.inf
    first.forward_s = 2.0
    scheduler.finished(first, 2.0, succeeded=True)
    assert (second.formed_s, second.started_s) == (2.0, 2.0)
    assert scheduler.in_flight.since(2.5) == 0.5
    assert scheduler.in_flight.ends_s == 2.0 + scheduler.cost.seconds("key", 1)


@pytest.mark.parametrize(("took_s", "learned"), [(0.1, False), (0.6, False), (0.9, True)])
def test_nothing_is_learned_of_a_pass_whose_begin_was_not_noticed(took_s, learned):
    scheduler = Scheduler(AdaptivePolicy(1), cost_of({1: 1.0}), 10)
    put(scheduler, item("a"), item("b"))
    before_s = scheduler.cost.seconds("key", 1)
    for _ in range(2):
        batch = scheduler.next_batch(0.0, 0, draining=False)
        assert isinstance(batch, Batch)
        scheduler.in_flight.add(batch)
    first, second = scheduler.in_flight._batches
    first.forward_s, second.forward_s = before_s, took_s
    scheduler.finished(first, 1.0, succeeded=True)
    before_s = scheduler.cost.seconds("key", 1)
    scheduler.finished(second, 1.0 + took_s, succeeded=True)
    assert (scheduler.cost.seconds("key", 1) != before_s) is learned


# What fails, and is tried again.


def test_parts_of_a_failed_batch_are_ahead_of_everybody():
    scheduler = Scheduler(AdaptivePolicy(N), cost_of(ONE_BY_ONE), 100)
    terms = Terms(due_s=2.5, deadline_s=NEVER_S)
    half = Batch([item(), item()], CloseReason.RETRY, 0.0)
    failed = Batch([*half.items], CloseReason.FULL, 0.0)
    scheduler.in_flight.retrying(failed, [half])
    with pytest.raises(Overloaded):
        scheduler.check(1, terms, now_s=0.0)
    scheduler.in_flight.add(Batch([item()], CloseReason.FULL, 0.0))
    assert scheduler.in_flight.ends_s == math.inf
    scheduler.in_flight.retrying(failed, [])
    scheduler.check(1, terms, now_s=0.0)
    assert scheduler.in_flight.ends_s == scheduler.cost.seconds("key", 1)


def test_while_batches_fail_more_time_is_reckoned_with():
    cost = cost_of(ONE_BY_ONE)
    terms = Terms(due_s=3.0, deadline_s=NEVER_S)
    waiting = {"key": {NORMAL: Load(1, 1)}}
    check_promise(1, terms, 0.0, backlog(waiting), cost)
    with pytest.raises(Overloaded):
        check_promise(1, terms, 0.0, backlog(waiting, toll=2.0), cost)


# Who comes meanwhile.


def test_those_of_higher_priority_who_come_meanwhile_pass():
    # One a second takes half of a device that has 0.5 s for each: what takes 4 s takes 8.
    rates = {INTERACTIVE: 1.0, NORMAL: 100.0}
    longer_s = held_up_s(4.0, NORMAL, rates, an_item_s=0.5)
    chance_s = COMING_DEVIATIONS * math.sqrt(1.0 * 8.0) * 0.5
    assert longer_s == pytest.approx(4.0 + chance_s)
    assert held_up_s(4.0, INTERACTIVE, {INTERACTIVE: 1.0}, an_item_s=0.5) == 0.0


def test_those_of_lower_priority_take_no_more_than_their_share():
    share = 4 / (16 + 4)
    longer_s = held_up_s(4.0, INTERACTIVE, {INTERACTIVE: 1.0, NORMAL: 100.0}, an_item_s=0.5)
    assert 4.0 + longer_s == pytest.approx(4.0 / (1 - share))


def test_where_those_who_pass_leave_nothing_one_waits_for_ones_share():
    assert held_up_s(1.0, BULK, {INTERACTIVE: 2.0, BULK: 1.0}, an_item_s=0.5) == math.inf
    waiting = backlog({"key": {BULK: Load(2, 2)}}, rates={INTERACTIVE: 2.0})
    # Three of bulk, the newcomer's among them, with sixteen of interactive to each.
    assert items_by_share(1, BULK, waiting) == 3 * 17
    assert items_by_share(1, INTERACTIVE, waiting) == math.inf

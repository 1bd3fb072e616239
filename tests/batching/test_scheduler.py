"""What goes next, and what that leaves: the scheduler with time as an argument."""

import math
import random

import pytest

from batchserve.batch import Batch, CloseReason, Item, Priority, Terms
from batchserve.batching.arrivals import WINDOW
from batchserve.batching.cost import Cost
from batchserve.batching.policy import AdaptivePolicy, FixedPolicy, Policy, Wait
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import DeadlineExceeded, Overloaded, QueueFull, TooLarge
from tests.batching.clients import check_scheduler_empty
from tests.batching.items import (
    BULK,
    INTERACTIVE,
    NEVER_S,
    NORMAL,
    compute,
    item,
    next_batch,
    put,
    requests_of,
    serve_all,
)

N = 8
# 8 ms, and 1 ms for each item.
SEED = {size: 0.008 + 0.001 * size for size in (1, 2, 4, 8)}


def scheduler_of(
    *items: Item,
    policy: Policy | None = None,
    seed: dict[int, float] | None = None,
    max_queue_size: int = 10_000,
) -> Scheduler:
    policy = policy or AdaptivePolicy(N)
    made = Scheduler(policy, Cost(policy.max_batch_size, seed), max_queue_size)
    put(made, *items)
    return made


# Deadlines.


def test_a_batch_is_kept_so_small_that_nobody_in_it_becomes_late():
    hasty = item("hasty", due_s=0.0142)
    scheduler = scheduler_of(hasty, *[item(i) for i in range(10)], seed=SEED)
    batch = next_batch(scheduler)
    # With some caution, five items take 14.0 ms, and six 15.1.
    assert (len(batch), batch.reason) == (5, CloseReason.DEADLINE)
    assert hasty in batch.items
    assert scheduler.cost.seconds("key", 5) == pytest.approx(0.013)
    assert scheduler.queued == 6


def test_whoever_is_due_later_than_any_batch_takes_does_not_shrink_it():
    scheduler = scheduler_of(*[item(i, due_s=0.1) for i in range(10)], seed=SEED)
    batch = next_batch(scheduler)
    assert (len(batch), batch.reason) == (N, CloseReason.FULL)


def test_a_policy_that_keeps_no_promises_shrinks_nothing():
    items = [item(i, due_s=0.001) for i in range(N)]
    scheduler = scheduler_of(*items, policy=FixedPolicy(N, 1.0), seed=SEED)
    assert len(next_batch(scheduler)) == N


def test_an_item_that_cannot_be_in_time_does_not_drag_the_batch_down():
    late = item("late", due_s=0.001)
    scheduler = scheduler_of(late, *[item(i, due_s=0.030) for i in range(N)], seed=SEED)
    first, second = serve_all(scheduler, 0.0)
    assert (len(first), first.reason) == (N, CloseReason.FULL)
    assert late not in first.items
    assert second.items == [late]


def test_whoever_is_late_fills_the_places_that_nobody_else_takes():
    late = item("late", due_s=0.001)
    scheduler = scheduler_of(late, *[item(i) for i in range(3)], seed=SEED)
    assert requests_of(next_batch(scheduler)) == [0, 1, 2, "late"]


def test_whoever_is_late_makes_nobody_else_late():
    late = [item("late", due_s=0.001) for _ in range(N)]
    scheduler = scheduler_of(*late, item("in time", due_s=0.0125), seed=SEED)
    batch = next_batch(scheduler)
    assert requests_of(batch)[0] == "in time"
    assert 1 <= len(batch) < 5


def test_whoever_is_late_is_computed_at_once_when_the_device_would_idle():
    scheduler = scheduler_of(item("late", due_s=0.001), seed=SEED)
    assert requests_of(next_batch(scheduler)) == ["late"]


def test_whoever_is_late_in_one_bucket_comes_after_everybody_in_the_others():
    late = [item("late", 2.9, due_s=3.005) for _ in range(2 * N)]
    scheduler = scheduler_of(*late, item("b", 2.95, key="b"), item("c", 2.97, key="c"), seed=SEED)
    # It needs one look to tell that they are late.
    served = [requests_of(batch)[0] for batch in serve_all(scheduler, 3.0)]
    assert served == ["late", "b", "c", "late"]


def test_whoever_is_late_for_as_long_again_as_was_promised_is_given_up():
    late = item("late", 1.0, due_s=1.1)
    now_s = 1.098
    scheduler = scheduler_of(late, seed=SEED)
    put(scheduler, *[item(i, now_s, due_s=now_s + 0.030) for i in range(N)])
    for _ in range(20):
        batch = next_batch(scheduler, now_s)
        now_s = compute(scheduler, batch, now_s, 0.016)
        assert late.future.done() is (late not in batch.items and now_s - 0.016 >= 1.2)
        put(scheduler, *[item((now_s, i), now_s, due_s=now_s + 0.030) for i in range(N)])
    assert late.future.done()


def test_an_item_whose_deadline_has_passed_is_told_so_and_not_computed():
    over, kept = item("over", deadline_s=1.0), item("kept")
    scheduler = scheduler_of(over, kept, seed=SEED)
    assert next_batch(scheduler, 1.0).items == [kept]
    assert over.future.done()
    check_scheduler_empty(scheduler)


def test_what_is_told_is_that_the_deadline_has_passed():
    errors: list[BaseException] = []
    over = item("over", deadline_s=1.0)
    over.future.set_exception = errors.append  # type: ignore[assignment, method-assign]
    scheduler = scheduler_of(over)
    assert isinstance(scheduler.next_batch(1.0, 0, draining=False), Wait | Batch)
    assert isinstance(errors[0], DeadlineExceeded)


def test_an_estimate_that_a_smaller_batch_takes_longer_makes_nobody_wait_for_ever():
    # Such a curve is measured now and then. The first item is late alone, and not with another.
    scheduler = scheduler_of(
        *[item(i, due_s=0.010) for i in range(2)], seed={1: 0.012, 2: 0.008, 8: 0.020}
    )
    batches = serve_all(scheduler, 0.0)
    assert sum(map(len, batches)) == 2


# Buckets.


def test_buckets_take_turns_by_age():
    items = [item(i, float(i), key=key) for i, key in enumerate(["a", "b", "c"] * N)]
    scheduler = scheduler_of(*items, policy=AdaptivePolicy(2))
    assert [batch.bucket_key for batch in serve_all(scheduler, 99.0)] == ["a", "b", "c"] * 4


def test_a_bucket_that_is_always_full_does_not_starve_another():
    scheduler = scheduler_of(*[item("many", 0.0, key="a") for _ in range(100)])
    now_s = compute(scheduler, next_batch(scheduler, 0.0), 0.0, 1.0)
    put(scheduler, item("one", now_s - 0.5, key="b"))
    served = [requests_of(next_batch(scheduler, now_s + i))[0] for i in range(2)]
    assert "one" in served


def test_a_bucket_that_may_not_close_yet_does_not_hold_up_another():
    scheduler = scheduler_of(
        item("waits", 0.0, key="a"),
        *[item("full", 0.5, key="b") for _ in range(N)],
        policy=FixedPolicy(N, 1.0),
    )
    assert next_batch(scheduler, 0.6).bucket_key == "b"
    assert scheduler.next_batch(0.6, 0, draining=False) == Wait(1.0)


def test_if_all_must_wait_it_says_until_when_the_first_must():
    scheduler = scheduler_of(
        item("b", 0.2, key="b"), item("a", 0.1, key="a"), policy=FixedPolicy(N, 1.0)
    )
    assert scheduler.next_batch(0.3, 0, draining=False) == Wait(1.1)
    assert scheduler_of().next_batch(0.3, 0, draining=False) == Wait(math.inf)


def test_a_bucket_whose_batches_end_at_deadlines_does_not_starve_another():
    scheduler = scheduler_of(*[item("many", 0.0, key="a") for _ in range(200)], seed=SEED)
    put(scheduler, item("other", 0.001, key="b"))
    now_s, served = 1.0, []
    for number in range(10):
        # Time and again one that is due soon joins the large request.
        put(scheduler, item(number, now_s, key="a", due_s=now_s + 0.0125))
        batch = next_batch(scheduler, now_s)
        served.append(batch.bucket_key)
        now_s = compute(scheduler, batch, now_s, scheduler.cost.seconds("a", len(batch)))
    assert "b" in served


# Requests and priorities.


def test_a_request_with_a_thousand_inputs_does_not_hold_up_single_ones():
    scheduler = scheduler_of(*[item("many") for _ in range(1000)])
    now_s = 0.0
    for number in range(20):
        put(scheduler, item(number, now_s))
        batch = next_batch(scheduler, now_s)
        assert number in requests_of(batch), "it waits for more than one batch"
        now_s = compute(scheduler, batch, now_s, 0.01)
    assert scheduler.queued == 1020 - 20 * N


def test_the_items_of_a_request_keep_their_order_over_all_its_batches():
    items = [item("many") for _ in range(20)]
    scheduler = scheduler_of(*items, *[item(i) for i in range(5)])
    order = [each for batch in serve_all(scheduler, 0.0) for each in batch.items]
    assert [each for each in order if each.request == "many"] == items


def test_a_higher_priority_passes_what_waits():
    scheduler = scheduler_of(
        *[item("bulk", priority=BULK) for _ in range(100)],
        *[item("normal") for _ in range(100)],
        policy=AdaptivePolicy(1),
    )
    next_batch(scheduler)
    put(scheduler, item("hasty", priority=INTERACTIVE))
    assert requests_of(next_batch(scheduler)) == ["hasty"]


def test_a_higher_priority_passes_across_buckets():
    scheduler = scheduler_of(
        *[item("bulk", 0.0, key="a", priority=BULK) for _ in range(3 * N)],
        item("hasty", 9.0, key="b", priority=INTERACTIVE),
    )
    assert requests_of(next_batch(scheduler, 10.0)) == ["hasty"]


@pytest.mark.parametrize("keys", [("a", "a", "a"), ("a", "b", "c")])
@pytest.mark.parametrize("n", [1, N])
def test_in_the_long_run_each_priority_gets_its_share_and_bulk_is_not_starved(n, keys):
    scheduler = scheduler_of(policy=AdaptivePolicy(n))
    served = dict.fromkeys(Priority, 0)
    waiting = dict.fromkeys(Priority, 0)
    for _ in range(4200 // n):
        for priority, key in zip(Priority, keys, strict=True):
            # There is always more of each.
            missing = 2 * n - waiting[priority]
            put(scheduler, *[item(priority, key=key, priority=priority) for _ in range(missing)])
            waiting[priority] += missing
        for each in next_batch(scheduler).items:
            served[each.terms.priority] += 1
            waiting[each.terms.priority] -= 1
    total = sum(served.values())
    assert served[INTERACTIVE] / total == pytest.approx(16 / 21, rel=0.1)
    assert served[NORMAL] / total == pytest.approx(4 / 21, rel=0.1)
    assert served[BULK] / total == pytest.approx(1 / 21, rel=0.1)


@pytest.mark.parametrize(("other", "share"), [(NORMAL, 1 / 5), (INTERACTIVE, 1 / 17)])
def test_against_one_other_priority_bulk_gets_its_share(other, share):
    scheduler = scheduler_of(
        *[item("other", priority=other) for _ in range(1000)],
        *[item("bulk", priority=BULK) for _ in range(1000)],
        policy=AdaptivePolicy(1),
    )
    served = [requests_of(next_batch(scheduler))[0] for _ in range(850)]
    assert served.count("bulk") / 850 == pytest.approx(share, rel=0.1)


def test_whoever_did_not_use_its_share_has_not_saved_it_up():
    scheduler = scheduler_of(
        *[item("hasty", priority=INTERACTIVE) for _ in range(1000)], policy=AdaptivePolicy(1)
    )
    for _ in range(500):
        next_batch(scheduler)
    put(scheduler, *[item("bulk", priority=BULK) for _ in range(100)])
    served = [requests_of(next_batch(scheduler))[0] for _ in range(170)]
    assert served.count("bulk") == pytest.approx(10, abs=1)


def test_an_item_that_must_travel_alone_does():
    scheduler = scheduler_of(item(1), item(2), item(3, alone=True), item(4), item(5, alone=True))
    assert [requests_of(batch) for batch in serve_all(scheduler, 0.0)] == [[1, 2], [3], [4], [5]]
    check_scheduler_empty(scheduler)


def test_items_that_travel_alone_use_up_their_prioritys_share_too():
    scheduler = scheduler_of(
        *[item(i, priority=INTERACTIVE, alone=True) for i in range(500)],
        *[item("bulk", priority=BULK) for _ in range(100)],
        policy=AdaptivePolicy(1),
    )
    served = [requests_of(next_batch(scheduler))[0] for _ in range(170)]
    assert served.count("bulk") >= 5


# Places.


def test_places_are_items_that_wait_and_those_held_for_what_is_decoded():
    scheduler = scheduler_of(item("a"), item("a"), max_queue_size=5)
    scheduler.hold("b", 2, NORMAL)
    assert scheduler.taken == 4
    scheduler.check(1, Terms(NEVER_S, NEVER_S), 0.0)
    with pytest.raises(QueueFull):
        scheduler.check(2, Terms(NEVER_S, NEVER_S), 0.0)
    with pytest.raises(TooLarge):
        scheduler.check(6, Terms(NEVER_S, NEVER_S), 0.0)
    scheduler.withdraw("b")
    scheduler.check(3, Terms(NEVER_S, NEVER_S), 0.0)
    batch = next_batch(scheduler)
    scheduler.in_flight.add(batch)
    assert (scheduler.in_flight.items, scheduler.taken) == (2, 0)


def test_ten_thousand_withdrawals_leave_nothing():
    scheduler = scheduler_of(seed=SEED)
    chance = random.Random(3)
    for number in range(10_000):
        scheduler.hold(number, 3, chance.choice(list(Priority)))
        if number % 3:
            items = [
                item(
                    number, key=chance.choice("abc"), due_s=chance.choice([-1.0, NEVER_S]),
                    priority=chance.choice(list(Priority)),
                )
                for _ in range(3)
            ]  # fmt: skip
            scheduler.admit(number, items, 0.0)
        if number % 100 == 0:
            scheduler.next_batch(0.0, 0, draining=False)
        scheduler.withdraw(number, items if number % 3 else ())
        scheduler.withdraw(number, items if number % 3 else ())
        assert (scheduler.queued, scheduler.taken) == (0, 0)
    check_scheduler_empty(scheduler)
    assert len(scheduler._arrivals._last_s) <= N
    assert all(len(times) <= WINDOW for times in scheduler._arrivals._by_priority.values())
    assert len(scheduler.cost._curves) == 0


def test_whoever_is_late_gives_its_place_to_those_who_can_be_in_time():
    late = [item("late", due_s=0.001) for _ in range(20)]
    scheduler = scheduler_of(*late, seed=SEED, max_queue_size=20)
    compute(scheduler, next_batch(scheduler, 1.0), 1.0, 0.016)
    put(scheduler, *[item(i, 1.016) for i in range(N)])
    scheduler.check(3, Terms(NEVER_S, NEVER_S), 1.016)
    # Who has been let in may still turn out to have sent nothing of use.
    assert not any(each.future.done() for each in late)
    scheduler.hold("newcomer", 3, NORMAL)
    assert scheduler.taken == 20
    assert sum(each.future.done() for each in late) == 3


@pytest.mark.parametrize(
    ("count", "due_s", "error"), [(21, NEVER_S, TooLarge), (12, 1.030, Overloaded)]
)
def test_whoever_is_late_keeps_its_place_if_the_newcomer_is_refused_anyway(count, due_s, error):
    late = [item("late", due_s=1.005) for _ in range(20)]
    scheduler = scheduler_of(*late, seed=SEED, max_queue_size=20)
    compute(scheduler, next_batch(scheduler, 1.0), 1.0, 0.016)
    put(scheduler, *[item(i, 1.016) for i in range(N)])
    with pytest.raises(error):
        scheduler.check(count, Terms(due_s, NEVER_S), 1.016)
    assert not any(each.future.done() for each in late)


def test_memory_limits_a_batch():
    scheduler = scheduler_of(*[item(i) for i in range(10)])
    scheduler.memory.ran_out("key", N, 0.0)
    batch = next_batch(scheduler)
    assert (len(batch), batch.reason) == (N // 2, CloseReason.FULL)


def test_taking_all_leaves_nothing():
    items = [item("a"), item("b", key="other", priority=BULK), item("c", due_s=0.0)]
    scheduler = scheduler_of(*items)
    assert {id(each) for each in scheduler.take_all()} == {id(each) for each in items}
    check_scheduler_empty(scheduler)
    assert repr(scheduler) == "<Scheduler | 0 queued, 0 in flight>"


def test_a_pass_of_bulk_elsewhere_does_not_put_newcomers_behind_those_who_wait():
    scheduler = scheduler_of(*[item(i) for i in range(50)], seed=SEED)
    put(scheduler, *[item(f"bulk {i}", key="b", priority=BULK) for i in range(N)])
    for _ in range(2):
        batch = next_batch(scheduler)
        if batch.bucket_key == "b":
            break
    put(scheduler, item("interactive", priority=INTERACTIVE))
    assert "interactive" in requests_of(next_batch(scheduler))

"""Requests take turns in a bucket, and whatever leaves it leaves nothing behind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchserve.batch import Item
from batchserve.batching.bucket import Lane, Load
from batchserve.batching.shares import Shares
from tests.batching.items import BULK, INTERACTIVE, NORMAL, bucket_of, item


def lane_of(*items: Item) -> Lane:
    lane = Lane()
    for each in items:
        lane.append(each)
    return lane


def pop_all(lane: Lane) -> list[Item]:
    return [lane.pop(0.0) for _ in range(len(lane))]


def test_items_of_one_request_keep_their_order():
    items = [item("a", i) for i in range(5)]
    assert pop_all(lane_of(*items)) == items


def test_requests_take_turns_an_item_each():
    lane = lane_of(*[item("many")] * 4, item("one"), *[item("two")] * 2)
    assert [popped.request for popped in pop_all(lane)] == [
        "many", "one", "two", "many", "two", "many", "many",
    ]  # fmt: skip


def test_a_new_request_comes_last_and_has_its_turn_before_any_other_has_two():
    lane = lane_of(*[item("a")] * 3, *[item("b")] * 3)
    assert lane.pop(0.0).request == "a"
    lane.append(item("c"))
    assert [popped.request for popped in pop_all(lane)] == ["b", "a", "c", "b", "a", "b"]


def test_a_request_waits_for_its_turn_since_it_had_its_last():
    lane = lane_of(item("a", 1.0), item("a", 1.0), item("b", 2.0))
    assert lane.since_s == 1.0
    lane.pop(7.0)
    assert lane.since_s == 2.0
    lane.pop(8.0)
    assert lane.since_s == 7.0


def test_what_is_put_back_comes_first_again():
    items = [item("a", 1.0), item("b", 2.0), item("a", 1.0)]
    lane = lane_of(*items)
    for _ in range(3):
        popped = lane.pop(5.0)
        lane.put_back(popped)
        assert (len(lane), lane.requests, lane.since_s) == (3, 2, 1.0)
    assert pop_all(lane) == items


def test_the_only_item_of_a_request_can_be_put_back():
    lane = lane_of(item("a", 1.0), item("b", 2.0))
    lane.put_back(lane.pop(5.0))
    assert [popped.request for popped in pop_all(lane)] == ["a", "b"]


@pytest.mark.xfail(strict=True, reason="put_back takes the item's age for its turn's")
def test_what_is_put_back_has_waited_for_its_turn_no_longer_than_before():
    lane = lane_of(*[item("many", 1.0)] * 3)
    lane.pop(7.0)
    since_s = lane.since_s
    lane.put_back(lane.pop(8.0))
    assert lane.since_s == since_s == 7.0


@pytest.mark.xfail(strict=True, reason="put_back makes its request the oldest")
def test_after_a_younger_item_was_put_back_the_oldest_is_still_the_oldest():
    lane = lane_of(item("older", 1.0), item("older", 1.0), item("younger", 2.0))
    lane.pop(5.0)
    lane.put_back(lane.pop(5.0))
    assert lane.oldest.queued_s == 1.0


def test_the_oldest_is_found_whoever_has_the_next_turn():
    lane = lane_of(item("a", 1.0), item("a", 1.5), item("b", 2.0))
    lane.pop(5.0)
    assert lane.oldest.queued_s == 1.5
    lane.withdraw("a")
    assert lane.oldest.queued_s == 2.0


def test_a_request_that_withdraws_leaves_nothing():
    lane = lane_of(*[item("a")] * 3, item("b"))
    assert lane.withdraw("a") == 3
    assert lane.withdraw("a") == 0
    assert (len(lane), lane.requests) == (1, 1)
    assert lane.withdraw("b") == 1
    assert (len(lane), lane._turns, lane._by_age) == (0, {}, {})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("apw"), st.sampled_from("xyz")), max_size=40))
def test_a_lane_counts_what_it_holds_and_is_fair(steps: list[tuple[str, str]]):
    lane, waiting = Lane(), dict[str, list[Item]]()
    turns: list[str] = []
    for number, (what, request) in enumerate(steps):
        if what == "a" and request not in waiting:
            waiting[request] = [item(request, float(number)) for _ in range(1 + number % 3)]
            for new in waiting[request]:
                lane.append(new)
            turns.append(request)
        elif what == "p" and turns:
            first = turns.pop(0)
            assert lane.pop(0.0) is waiting[first].pop(0)
            if waiting[first]:
                turns.append(first)
            else:
                del waiting[first]
        elif what == "w":
            assert lane.withdraw(request) == len(waiting.pop(request, ()))
            turns = [other for other in turns if other != request]
        assert (len(lane), lane.requests) == (sum(map(len, waiting.values())), len(turns))
        if waiting:
            assert lane.oldest.queued_s == min(its[0].queued_s for its in waiting.values())


def test_a_bucket_has_a_lane_for_each_priority():
    bucket = bucket_of(
        item("a", 3.0, priority=BULK), item("b", 2.0), item("c", 1.0, priority=INTERACTIVE)
    )
    shares = Shares()
    order = []
    while priority := bucket.next_priority(shares):
        order.append(bucket.lanes[priority].pop(0.0).request)
        shares.charge(priority)
    assert order == ["c", "b", "a"]
    assert len(bucket) == 0


def test_late_items_have_no_priority_and_count_as_nobodys_load():
    bucket = bucket_of(item("a", 1.0), item("a", 1.0))
    bucket.late.append(item("b", 0.5, priority=INTERACTIVE))
    assert bucket.loads() == {NORMAL: Load(items=2, requests=1)}
    assert (len(bucket), bucket.oldest.queued_s) == (3, 0.5)
    bucket.withdraw("a")
    assert bucket.next_priority(Shares()) is None
    assert len(bucket) == 1


def test_a_bucket_forgets_a_request_in_every_lane():
    bucket = bucket_of(item("a"), item("a", priority=BULK), item("b"))
    bucket.late.append(item("a"))
    assert bucket.withdraw("a") == 3
    assert len(bucket) == 1


def test_all_can_be_taken_at_once():
    items = [item("a"), item("b", priority=BULK), item("a")]
    bucket = bucket_of(*items)
    bucket.late.append(late := item("c"))
    assert {id(taken) for taken in bucket.take_all()} == {id(each) for each in [*items, late]}
    assert repr(bucket) == "<Bucket key | 0 waiting>"

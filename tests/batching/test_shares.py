"""Priorities share the device by weight."""

from itertools import pairwise

import pytest

from batchserve.batch import Priority
from batchserve.batching.shares import WEIGHTS, Shares
from tests.batching.items import BULK, INTERACTIVE, NORMAL


def serve(shares: Shares, waiting: list[Priority], times: int) -> list[Priority]:
    served = []
    for _ in range(times):
        served.append(first := shares.first_of(waiting))
        shares.charge(first)
    return served


def test_at_first_the_highest_comes_first():
    shares = Shares()
    assert shares.first_of([BULK, NORMAL, INTERACTIVE]) is INTERACTIVE
    assert shares.first_of([BULK, NORMAL]) is NORMAL
    assert shares.first_of([BULK]) is BULK


@pytest.mark.parametrize(
    "waiting", [list(Priority), [INTERACTIVE, BULK], [NORMAL, BULK], [INTERACTIVE, NORMAL]]
)
def test_whoever_waits_is_served_by_weight(waiting):
    total = sum(WEIGHTS[priority] for priority in waiting)
    served = serve(Shares(), waiting, 10 * total)
    for priority in waiting:
        assert abs(served.count(priority) - 10 * WEIGHTS[priority]) <= 1


def test_nobody_is_passed_over_for_longer_than_a_round():
    served = serve(Shares(), list(Priority), 210)
    places = [place for place, priority in enumerate(served) if priority is BULK]
    assert max(after - before for before, after in pairwise(places)) <= 21


def test_what_was_not_used_while_nobody_waited_is_lost():
    shares = Shares()
    serve(shares, [BULK], 100)
    shares.join(INTERACTIVE, [])
    served = serve(shares, [INTERACTIVE, BULK], 34)
    assert served.count(BULK) == pytest.approx(2, abs=1)


def test_nor_is_anything_gained_by_leaving_and_coming_back():
    shares = Shares()
    served = []
    for _ in range(210):
        shares.join(BULK, [])
        served += serve(shares, list(Priority), 1)
    assert served.count(BULK) <= 11


def test_what_each_has_had_is_told():
    shares = Shares()
    serve(shares, [INTERACTIVE], 8)
    serve(shares, [BULK], 1)
    assert [shares.had(priority) for priority in Priority] == [0.5, 0.0, 1.0]

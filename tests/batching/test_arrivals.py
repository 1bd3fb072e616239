"""How many have come lately."""

import pytest

from batchserve.batching.arrivals import WINDOW, Arrivals
from tests.batching.items import INTERACTIVE, NORMAL


def test_before_anybody_came_nobody_is_expected():
    arrivals = Arrivals(company=4)
    assert arrivals.rate(1.0) == 0.0
    assert arrivals.rates(1.0) == {}


def test_the_rate_of_all_is_told_by_the_last_few():
    arrivals = Arrivals(company=4)
    for at_s in (0.0, 10.0, 10.5, 11.0, 11.5):
        arrivals.came(NORMAL, at_s)
    assert arrivals.rate(12.0) == pytest.approx(4 / 2.0)


def test_the_rate_of_a_priority_is_its_own_and_fades_when_nobody_comes():
    arrivals = Arrivals(company=4)
    for second in range(2 * WINDOW):
        arrivals.came(NORMAL, second / 10)
    arrivals.came(INTERACTIVE, 12.0)
    now_s = 2 * WINDOW / 10
    rates = arrivals.rates(now_s)
    assert rates[NORMAL] == pytest.approx(10.0)
    assert rates[INTERACTIVE] == pytest.approx(1 / (now_s - 12.0))
    assert arrivals.rates(now_s + 100)[NORMAL] < 1.0


def test_of_a_clock_that_has_not_moved_nothing_is_told():
    arrivals = Arrivals(company=4)
    arrivals.came(NORMAL, 3.0)
    assert arrivals.rate(3.0) == 0.0

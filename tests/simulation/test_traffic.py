"""Arrivals have the rate and the burstiness that they are asked for."""

from itertools import islice, takewhile

import pytest

from batchserve.batch import Priority
from batchserve.simulation.traffic import Ask, Bursts, Given, Mix, diurnal, poisson
from tests.simulation.settings import rng


def counts(times: list[float], width_s: float, seconds: float) -> list[int]:
    found = [0] * round(seconds / width_s)
    for time_s in times:
        found[int(time_s / width_s)] += 1
    return found


def dispersion(times: list[float], width_s: float, seconds: float) -> float:
    found = counts(times, width_s, seconds)
    mean = sum(found) / len(found)
    return sum((one - mean) ** 2 for one in found) / len(found) / mean


def test_poisson_has_its_rate_and_no_bursts():
    times = list(takewhile(lambda at_s: at_s < 200, poisson(50, rng(0))))
    assert len(times) == pytest.approx(10_000, rel=0.03)
    assert dispersion(times, 0.5, 200) == pytest.approx(1, abs=0.25)


def test_bursts_keep_the_mean_rate_and_come_in_clusters():
    times = list(takewhile(lambda at_s: at_s < 400, Bursts(3, 0.2, 2).times(50, rng(0))))
    assert len(times) == pytest.approx(20_000, rel=0.1)
    assert dispersion(times, 0.5, 400) > 5


def test_all_may_come_in_bursts():
    times = list(islice(Bursts(5, 0.2, 1).times(50, rng(0)), 100))
    assert times == sorted(times)


def test_the_day_has_its_high_and_its_low():
    times = list(takewhile(lambda at_s: at_s < 100, diurnal(100, 0.8, 100, rng(0))))
    quarters = counts(times, 25, 100)
    assert sum(quarters) == pytest.approx(10_000, rel=0.04)
    assert quarters[0] > 2 * quarters[2]


def test_requests_are_mixed_by_weight():
    mix = Mix({1: 3, 4: 1}, {Priority.NORMAL: 1, Priority.BULK: 1}, 50, rng(0))
    asks = [mix.ask(0.0) for _ in range(2000)]
    assert sum(ask.items == 4 for ask in asks) == pytest.approx(500, rel=0.15)
    assert sum(ask.priority is Priority.BULK for ask in asks) == pytest.approx(1000, rel=0.1)
    assert mix.mean_items == 1.75
    assert asks[0].timeout_ms == 50


def test_given_requests_are_sorted():
    assert [ask.at_s for ask in Given([Ask(2.0), Ask(1.0)]).asks()] == [1.0, 2.0]

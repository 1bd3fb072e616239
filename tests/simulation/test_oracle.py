"""The oracle is never beaten, and does as well as trying everything."""

from itertools import combinations

import pytest

from batchserve.errors import ConfigError
from batchserve.simulation.oracle import most_in_time
from tests.simulation.settings import rng, study

PROMISE_S = 0.030


def pass_s(size: int) -> float:
    return 0.008 + 0.002 * size


def test_it_answers_all_where_there_is_time():
    assert most_in_time([0.0, 0.1, 0.2], PROMISE_S, pass_s, 4) == 3


def test_it_refuses_one_that_would_make_others_late():
    # Alone it would keep the device until 10 ms; the four take 16 ms, and must be done at 25 ms.
    assert most_in_time([0.0, 0.009, 0.009, 0.009, 0.009], 0.016, pass_s, 4) == 4


def test_nobody_can_be_in_time_where_a_pass_takes_longer():
    assert most_in_time([0.0, 0.1], 0.005, pass_s, 4) == 0


@pytest.mark.parametrize("seed", range(25))
def test_it_finds_what_trying_everything_finds(seed: int):
    random = rng(seed)
    arrivals_s = sorted(random.uniform(0, 0.06) for _ in range(7))
    expected = max(
        count
        for count in range(8)
        for chosen in combinations(arrivals_s, count)
        if is_possible(list(chosen), 0.0)
    )
    assert most_in_time(arrivals_s, PROMISE_S, pass_s, 3) == expected


def is_possible(waiting: list[float], free_s: float) -> bool:
    """Whether all can be answered in time, by any batches at all."""
    if not waiting:
        return True
    first, *others = waiting
    for count in range(3):
        for company in combinations(others, count):
            batch = [first, *company]
            done_s = max(free_s, *batch) + pass_s(len(batch))
            rest = [one for one in others if one not in company]
            if done_s <= first + PROMISE_S and is_possible(rest, done_s):
                return True
    return False


@pytest.mark.parametrize("load", [0.7, 1.5, 4.0])
def test_no_policy_beats_it(load: float):
    made = study({1: 10.0, 16: 40.0}, 200.0, load, 800)
    bound = made.bound().goodput
    for policy in ("ours", "fixed:16:2", "aimd"):
        summary = made.look(policy).summary
        assert summary.in_time / made.seconds <= bound * 1.000001
    assert made.look("ours").summary.in_time / made.seconds >= 0.9 * bound


def test_it_is_known_for_simple_situations_only():
    with pytest.raises(ConfigError, match="one device"):
        study({1: 10.0}, 100, 0.5, 10, devices=2).bound()

"""The cost follows what passes have taken lately."""

import pytest

from batchserve.batching.cost import Cost


def test_before_the_first_pass_it_knows_nothing():
    assert Cost().seconds_for(100) == 0.0


def test_it_scales_with_the_number_of_items():
    cost = Cost()
    cost.observe(4, 0.2)
    assert cost.seconds_for(8) == pytest.approx(0.4)


def test_a_change_of_speed_is_followed():
    cost = Cost()
    cost.observe(1, 0.01)
    for _ in range(20):
        cost.observe(1, 0.05)
    assert cost.seconds_for(1) == pytest.approx(0.05, rel=0.02)


def test_one_outlier_is_damped():
    cost = Cost()
    for _ in range(20):
        cost.observe(1, 0.01)
    cost.observe(1, 0.1)
    assert cost.seconds_for(1) < 0.03

"""The cost: a curve for each bucket, and how the machine's present pace differs from it."""

import random
from collections.abc import Callable

import pytest

from batchserve.batching.cost import FIRST_DEVIATION, MOST_BUCKETS, TRY_EVERY, Cost

N = 16
SIZES = (1, 2, 4, 8, 16)


def usual(size: int) -> float:
    """10 ms for a pass, and 1 ms for each item."""
    return 0.010 + 0.001 * size


def seed(seconds: Callable[[int], float] = usual) -> dict[int, float]:
    return {size: seconds(size) for size in SIZES}


def seeded(seconds: Callable[[int], float] = usual) -> Cost:
    """Return a cost that has seen each size of the bucket "key" as often as it takes."""
    cost = Cost(N, seed(seconds))
    for _ in range(3):
        for size in SIZES:
            cost.observe("key", size, seconds(size))
    return cost


# What is known.


def test_before_the_first_pass_it_knows_nothing():
    cost = Cost(N)
    assert not cost.is_known
    assert (cost.seconds("key", 4), cost.bound("key", 4), cost.seconds_for("key", 99)) == (0, 0, 0)
    assert (cost.knee("key"), cost.limit("key", 7), cost.size_worth("key", 0.5, 7)) == (N, 7, 7)


def test_the_warm_up_tells_what_any_bucket_costs():
    cost = Cost(N, seed())
    assert cost.is_known
    for key in ("key", None, ("any", "other")):
        assert [cost.seconds(key, size) for size in SIZES] == [usual(size) for size in SIZES]


def test_between_sizes_it_is_linear_and_beyond_the_largest_in_proportion():
    cost = Cost(N, seed())
    assert cost.seconds("key", 3) == pytest.approx(usual(3))
    assert cost.seconds("key", 13) == pytest.approx(usual(13))
    assert cost.seconds("key", 32) == pytest.approx(2 * usual(16))
    assert cost.seconds("key", 0) == 0.0


def test_a_warm_up_of_few_sizes_is_enough():
    cost = Cost(N, {1: 0.010, 16: 0.025})
    assert [cost.seconds("key", size) for size in (1, 6, 16)] == pytest.approx(
        [0.010, 0.015, 0.025]
    )


def test_one_pass_tells_something_of_every_size():
    cost = Cost(N)
    cost.observe("key", 4, 0.020)
    assert cost.seconds("key", 4) == pytest.approx(0.020)
    assert 0.010 < cost.seconds("key", 1) < 0.020 < cost.seconds("key", 16) < 0.080
    # And of every bucket.
    assert cost.seconds("other", 4) == pytest.approx(0.020)


def test_many_items_take_batches_of_the_best_size_and_the_rest():
    assert Cost(N, seed()).seconds_for("key", 35) == pytest.approx(2 * usual(16) + usual(3))


def test_a_clock_that_stands_still_teaches_nothing_wrong():
    cost = Cost(N)
    for _ in range(100):
        cost.observe("key", 4, 0.0)
    assert 0.0 < cost.seconds("key", 1) <= cost.seconds("key", 16) < 1e-5
    assert 1 <= cost.knee("key") <= N


# How large a batch should be.


def test_the_knee_of_a_curve_with_an_optimum_is_the_optimum():
    cost = Cost(N, {1: 0.010, 2: 0.011, 4: 0.013, 8: 0.040, 16: 0.100})
    assert cost.knee("key") == 4
    assert cost.limit("key", N) == 4
    assert cost.limit("key", 3) == 3


def test_of_a_flat_curve_the_knee_is_the_smallest_size():
    cost = Cost(N, {size: 0.010 * size for size in SIZES})
    assert cost.knee("key") == 1


def test_where_larger_is_always_faster_the_knee_is_the_largest():
    assert Cost(N, seed()).knee("key") == N


def test_a_gain_within_the_noise_is_not_worth_a_larger_batch():
    cost = Cost(N, {size: 0.010 * size * (1 - 0.001 * size) for size in SIZES})
    assert cost.knee("key") == 1


def test_the_size_that_is_worth_its_while_is_smaller_than_the_best():
    # Items per second: 91, 167, 286, 444, 615.
    cost = Cost(N, seed())
    assert cost.size_worth("key", 0.5, N) == 8
    assert cost.size_worth("key", 0.4, N) == 4


def test_the_knee_is_learned_while_running():
    def steep(size: int) -> float:
        return usual(size) if size <= 4 else 0.02 * size

    cost = seeded()
    assert cost.knee("key") == 16
    for _ in range(60):
        for size in SIZES:
            cost.observe("key", size, steep(size))
    assert cost.knee("key") == 4


def test_a_larger_size_that_may_be_as_fast_is_tried_again_once_in_a_while():
    # Per item 2.75 ms by 4 and 3.0 ms by 8.
    cost = Cost(N, {1: 0.010, 2: 0.0105, 4: 0.011, 8: 0.024, 16: 0.060})
    tried = []
    for _ in range(3 * TRY_EVERY + 3):
        tried.append(size := cost.limit("key", N))
        cost.observe("key", size, {4: 0.011, 8: 0.024}[size])
    assert [size for size in tried if size != 4] == [8, 8, 8]
    assert tried.index(8) == TRY_EVERY


def test_a_size_that_was_measured_at_a_bad_moment_is_the_best_again_in_the_end():
    # In truth 8 is the fastest; when it was measured, it took four times as long.
    cost = Cost(N, {1: 0.010, 2: 0.011, 4: 0.012, 8: 0.052, 16: 0.120})
    truth = {4: 0.012, 8: 0.013, 16: 0.120}
    for _ in range(100 * TRY_EVERY):
        cost.observe("key", size := cost.limit("key", N), truth[size])
        if cost.knee("key") == 8:
            break
    assert cost.knee("key") == 8


def test_a_size_that_is_far_too_slow_is_not_tried():
    cost = Cost(N, {1: 0.010, 2: 0.011, 4: 0.012, 8: 0.050, 16: 0.120})
    limits = set()
    for _ in range(2 * TRY_EVERY):
        limits.add(size := cost.limit("key", N))
        cost.observe("key", size, 0.012)
    assert limits == {4}


# How changes are followed.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_change_of_the_machines_speed_is_followed_within_twenty_passes(size, factor):
    cost = seeded()
    for _ in range(20):
        cost.observe("key", size, factor * usual(size))
    assert cost.seconds("key", size) == pytest.approx(factor * usual(size), rel=0.15)
    assert cost.bound("key", size) >= factor * usual(size)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_once_two_sizes_have_shown_it_it_is_followed_for_all(factor):
    cost = seeded()
    for _ in range(30):
        for size in (2, 16):
            cost.observe("key", size, factor * usual(size))
    for size in SIZES:
        assert cost.seconds("key", size) == pytest.approx(factor * usual(size), rel=0.25), size


def test_stalls_are_told_from_a_slow_machine():
    cost = seeded()
    for _ in range(30):
        for size in (2, 16):
            cost.observe("key", size, 0.015 + usual(size))
    for size in SIZES:
        assert cost.seconds("key", size) == pytest.approx(0.015 + usual(size), rel=0.25), size
    # Shared by more, a stall costs each of them less.
    assert cost.knee("key") == N


def test_while_only_small_batches_are_slow_larger_ones_look_worth_a_try():
    cost = seeded()
    for _ in range(40):
        cost.observe("key", 1, 10 * usual(1))
    stall_s = 9 * usual(1)
    assert cost.seconds("key", 1) == pytest.approx(10 * usual(1), rel=0.1)
    assert cost.seconds("key", 16) < usual(16) + 1.5 * stall_s


def test_a_change_of_speed_is_followed_by_all_buckets():
    cost = seeded()
    for _ in range(5):
        cost.observe("other", 4, 3 * usual(4))
    for _ in range(15):
        for size in (2, 8):
            cost.observe("key", size, 2 * usual(size))
    assert cost.seconds("other", 4) == pytest.approx(2 * 3 * usual(4), rel=0.35)


def test_one_outlier_is_damped():
    cost = seeded()
    cost.observe("key", 8, 100 * usual(8))
    for size in SIZES:
        assert usual(size) <= cost.seconds("key", size) < 1.5 * usual(size)
    for _ in range(30):
        cost.observe("key", 8, usual(8))
    assert cost.seconds("key", 8) == pytest.approx(usual(8), rel=0.05)


@pytest.mark.parametrize("noise", [0.02, 0.10, 0.25])
def test_the_bound_is_above_nearly_all_passes(noise):
    chance = random.Random(17)
    cost = seeded()
    above, passes = 0, 4000
    for number in range(passes + 200):
        size = chance.choice(SIZES)
        seconds = usual(size) * chance.lognormvariate(0.0, noise)
        if number >= 200:
            above += seconds > cost.bound("key", size)
        cost.observe("key", size, seconds)
    assert above <= 0.04 * passes


@pytest.mark.parametrize("shares", [(0, 0, 0, 0, 1), (0, 0, 1, 0, 0), (1, 2, 2, 5, 90)])
def test_however_long_it_learns_it_knows_what_passes_take(shares):
    chance = random.Random(3)
    cost = seeded()
    for number in range(20_000):
        (size,) = chance.choices(SIZES, shares)
        stall_s = chance.uniform(0.1, 1.0) if chance.random() < 0.02 else 0.0
        cost.observe("key", size, stall_s + usual(size) * chance.lognormvariate(0.0, 0.3))
        if number % 100 == 0:
            for other in SIZES:
                assert 0.4 < cost.seconds("key", other) / usual(other) < 3, (number, other)


def test_the_bound_is_close_where_passes_take_always_the_same():
    cost = seeded()
    for _ in range(100):
        cost.observe("key", 8, usual(8))
    assert cost.bound("key", 8) == pytest.approx(usual(8), rel=0.01)
    assert Cost(N, seed()).bound("key", 8) > usual(8) * (1 + FIRST_DEVIATION)


# Buckets.


def test_a_bucket_with_costs_of_its_own_is_told_apart():
    cost = seeded()
    for _ in range(5):
        for size in SIZES:
            cost.observe("large", size, 9 * usual(size))
    for size in SIZES:
        assert cost.seconds("large", size) == pytest.approx(9 * usual(size), rel=0.1)
        assert cost.seconds("key", size) == pytest.approx(usual(size), rel=0.1)


def test_the_first_pass_of_an_unknown_bucket_is_no_news_of_the_machine():
    cost = seeded()
    cost.observe("large", 1, 50 * usual(1))
    assert cost.seconds("key", 1) == pytest.approx(usual(1))
    assert cost.seconds("large", 1) == pytest.approx(50 * usual(1))


def test_of_an_unknown_bucket_the_last_one_seen_is_the_best_guess():
    cost = seeded()
    cost.observe("large", 4, 9 * usual(4))
    assert cost.seconds("unknown", 4) == cost.seconds(None, 4) == pytest.approx(9 * usual(4))
    cost.observe("key", 4, usual(4))
    assert cost.seconds(None, 4) == pytest.approx(usual(4))


def test_no_more_buckets_are_remembered_than_a_bound_and_those_in_use_stay():
    cost = Cost(N, seed())
    for number in range(3 * MOST_BUCKETS):
        cost.observe(number, 4, usual(4))
        cost.observe("in use", 4, 7 * usual(4))
    assert len(cost._curves) == MOST_BUCKETS
    assert cost.seconds("in use", 4) == pytest.approx(7 * usual(4), rel=0.2)


def test_what_was_reckoned_is_forgotten_with_the_next_pass():
    cost = seeded()
    for most in range(1, N + 1):
        cost.limit("key", most)
    assert len(cost._found) <= N + 1
    cost.observe("key", 1, usual(1))
    assert len(cost._found) <= 1

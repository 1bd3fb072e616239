"""The largest batch that is safe: halved when memory ran out, tried again later."""

from batchserve.batching.memory_limit import MOST_BUCKETS, TRY_AGAIN_S, MemoryLimit

N = 16


def test_until_memory_runs_out_there_is_no_limit():
    assert MemoryLimit(N).of("key", 0.0) == N


def test_a_size_that_was_too_large_is_halved_down_to_one():
    limit = MemoryLimit(N)
    for size, safe in [(16, 8), (8, 4), (3, 1), (1, 1)]:
        limit.ran_out("key", size, 0.0)
        assert limit.of("key", TRY_AGAIN_S - 1) == safe


def test_buckets_have_limits_of_their_own():
    limit = MemoryLimit(N)
    limit.ran_out("large", 16, 0.0)
    assert (limit.of("large", 0.0), limit.of("small", 0.0)) == (8, N)


def test_twice_the_size_may_be_tried_again_later():
    limit = MemoryLimit(N)
    limit.ran_out("key", 8, 0.0)
    assert limit.of("key", TRY_AGAIN_S - 0.001) == 4
    assert limit.of("key", TRY_AGAIN_S) == 8


def test_a_trial_that_failed_costs_one_pass_in_a_while():
    limit = MemoryLimit(N)
    limit.ran_out("key", 8, 0.0)
    limit.ran_out("key", 8, TRY_AGAIN_S)
    assert limit.of("key", 2 * TRY_AGAIN_S - 1) == 4


def test_a_trial_that_went_through_is_the_limit_for_a_while():
    limit = MemoryLimit(N)
    limit.ran_out("key", 8, 0.0)
    limit.sufficed("key", 7, TRY_AGAIN_S)
    assert limit.of("key", 2 * TRY_AGAIN_S - 1) == 7
    assert limit.of("key", 2 * TRY_AGAIN_S) == 14


def test_a_batch_within_the_limit_changes_nothing():
    limit = MemoryLimit(N)
    limit.ran_out("key", 8, 0.0)
    for size in (1, 4):
        limit.sufficed("key", size, 1.0)
    assert limit.of("key", TRY_AGAIN_S - 1) == 4
    assert limit.of("key", TRY_AGAIN_S) == 8


def test_when_the_largest_fits_again_there_is_no_limit_any_more():
    limit = MemoryLimit(N)
    limit.ran_out("key", 16, 0.0)
    limit.sufficed("key", 16, TRY_AGAIN_S)
    assert limit.of("key", TRY_AGAIN_S) == N
    assert limit._limits == {}


def test_it_is_never_above_the_largest():
    limit = MemoryLimit(5)
    limit.ran_out("key", 5, 0.0)
    limit.sufficed("key", 4, TRY_AGAIN_S)
    assert limit.of("key", 3 * TRY_AGAIN_S) == 5


def test_no_more_buckets_are_remembered_than_a_bound():
    limit = MemoryLimit(N)
    for number in range(2 * MOST_BUCKETS):
        limit.ran_out(number, 16, 0.0)
    assert len(limit._limits) == MOST_BUCKETS
    assert limit.of(2 * MOST_BUCKETS - 1, 0.0) == 8

"""What is recommended, by what was measured."""

import pytest

from batchserve.runners.difference import Difference
from batchserve.tuning.choice import choose
from tests.tuning.outcomes import BF16, COMPILED, PLAIN, SAME, outcome

SLIGHT = Difference(largest=0.01, magnitude=1.0, inputs=6, same_best=6)
FLIPPED = Difference(largest=0.01, magnitude=1.0, inputs=6, same_best=5, lead=0.025)
TIED = Difference(largest=0.01, magnitude=1.0, inputs=6, same_best=5, lead=0.007)
LARGE = Difference(largest=0.03, magnitude=1.0, inputs=6, same_best=6)
TOLERANCE = 0.02


def chosen(*outcomes):
    choice = choose(outcomes, TOLERANCE)
    assert choice is not None
    return choice.best.variant


def test_the_fastest_is_recommended_and_what_it_gives_is_told():
    plain = outcome(seconds={1: 0.1, 2: 0.2})
    compiled = outcome(COMPILED, {1: 0.06, 2: 0.1})
    choice = choose([plain, compiled], TOLERANCE)
    assert choice is not None
    assert choice.best is compiled
    assert choice.plain is plain
    assert choice.gain == pytest.approx(2)
    assert choice.later == pytest.approx(0.6)


def test_a_compiler_must_give_a_tenth():
    assert chosen(outcome(seconds={1: 0.1}), outcome(COMPILED, {1: 0.095})) == PLAIN
    assert chosen(outcome(seconds={1: 0.1}), outcome(COMPILED, {1: 0.08})) == COMPILED


def test_fewer_digits_must_give_a_tenth_more_than_a_compiler():
    plain, compiled = outcome(seconds={1: 0.1}), outcome(COMPILED, {1: 0.05})
    assert chosen(plain, compiled, outcome(BF16, {1: 0.047}, SLIGHT)) == COMPILED
    assert chosen(plain, compiled, outcome(BF16, {1: 0.04}, SLIGHT)) == BF16


@pytest.mark.parametrize("difference", [FLIPPED, LARGE, None])
def test_who_answers_otherwise_is_not_recommended_however_fast(difference):
    assert chosen(outcome(seconds={1: 0.1}), outcome(BF16, {1: 0.001}, difference)) == PLAIN


def test_of_two_classes_that_are_closer_than_the_tolerance_either_is_as_good():
    assert chosen(outcome(seconds={1: 0.1}), outcome(BF16, {1: 0.001}, TIED)) == BF16
    assert "5 of 6 inputs; it had led by up to 0.007" in str(TIED)
    assert "led" not in str(SLIGHT)


def test_of_one_price_the_fastest():
    from_ = outcome(seconds={1: 0.1})
    assert chosen(from_, outcome(PLAIN, {1: 0.09})) == PLAIN
    choice = choose([from_, other := outcome(PLAIN, {1: 0.09})], TOLERANCE)
    assert choice is not None
    assert choice.best is other


def test_where_nothing_was_measured_nothing_is_recommended():
    assert choose([outcome()], TOLERANCE) is None


def test_scores_are_held_to_the_tolerance_as_they_are_and_other_numbers_as_a_share():
    assert Difference(0.01, 0.1, 6, 6).within(0.02)
    assert not Difference(0.01, 0.1, 6).within(0.02)
    assert Difference(1.0, 100.0, 6).within(0.02)


def test_the_knee_is_the_largest_batch_that_pays():
    made = outcome(seconds={1: 0.1, 2: 0.12, 4: 0.2, 8: 0.398})
    assert made.knee == 4
    assert made.rate == pytest.approx(20)
    assert made.pass_s == pytest.approx(0.2)
    assert made.alone_s == pytest.approx(0.1)


def test_a_core_more_must_give_a_tenth():
    made = outcome(seconds={8: 0.1}, difference=SAME)
    made.add(2, 8, 0.095)
    assert made.threads == 1
    made.add(4, 8, 0.05)
    assert made.threads == 4


def test_a_pass_takes_the_median_of_its_times():
    made = outcome(seconds={1: 0.1})
    for taken_s in (0.5, 0.11):
        made.add(1, 1, taken_s)
    assert made.pass_s == pytest.approx(0.11)

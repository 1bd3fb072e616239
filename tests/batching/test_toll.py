"""What failed passes cost beside."""

import pytest

from batchserve.batching.toll import PASSES_TO_TRUST, Toll


def seen(toll: Toll, batches: int, again_s: float) -> float:
    """Return the factor after batches of 1 s each, with so many seconds of second tries."""
    for _ in range(batches):
        toll.observe(1.0, again=False)
        if again_s:
            toll.observe(again_s, again=True)
    return toll.factor


def test_while_nothing_fails_nothing_takes_longer():
    assert seen(Toll(), 100, again_s=0.0) == 1.0


@pytest.mark.parametrize("again_s", [0.1, 1.0, 3.0])
def test_second_tries_count_in_proportion(again_s):
    assert seen(Toll(), 200, again_s) == pytest.approx(1 + again_s)


def test_one_failure_among_the_first_says_little():
    toll = Toll()
    assert seen(toll, 1, again_s=2.0) == pytest.approx(1 + 2.0 / PASSES_TO_TRUST)


def test_what_has_been_is_forgotten():
    toll = Toll()
    assert seen(toll, 50, again_s=1.0) > 1.9
    assert seen(toll, 100, again_s=0.0) < 1.01

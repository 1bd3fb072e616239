"""Quantiles estimated from a histogram's buckets."""

import math

import pytest

from batchserve.quantiles import quantile

# Of 20 values, 10 up to 1, 9 more up to 2, and one beyond 4.
BUCKETS = [(1.0, 10.0), (2.0, 19.0), (4.0, 19.0), (math.inf, 20.0)]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.05, 0.1), (0.5, 1.0), (0.725, 1.5), (0.95, 2.0), (0.99, 4.0)]
)
def test_a_quantile_is_that_of_prometheus(share, expected):
    # Beyond the last finite bound, that bound is all that is known.
    assert quantile(share, BUCKETS) == pytest.approx(expected)


def test_no_quantile_of_nothing():
    assert math.isnan(quantile(0.5, []))
    assert math.isnan(quantile(0.5, [(1.0, 0.0), (math.inf, 0.0)]))

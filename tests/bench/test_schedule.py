"""When an open loop sends."""

import numpy as np
import pytest

from batchserve.bench.schedule import Arrivals, moments
from batchserve.bench.stage import closed, open_


def test_the_same_seed_gives_the_same_moments():
    first, again, other = (moments(Arrivals.POISSON, 100, 10, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_poisson_arrivals_have_exponential_gaps():
    found = np.array(moments(Arrivals.POISSON, 200, 100, 0))
    gaps = np.diff(found)
    assert (gaps >= 0).all()
    assert len(found) == pytest.approx(20_000, rel=0.03)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    # As of an exponential distribution: the deviation is the mean, and 1/e are longer than that.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps > 1 / 200).mean() == pytest.approx(np.exp(-1), rel=0.05)


def test_constant_arrivals_have_equal_gaps():
    assert moments(Arrivals.CONSTANT, 4, 1, 0) == [0, 0.25, 0.5, 0.75]


def test_processes_share_the_moments_of_one_schedule():
    stage = open_(100, Arrivals.POISSON, 2, 1, 0)
    shares = [stage.share(place, 3)[1] for place in range(3)]
    assert sorted(moment for share in shares for moment in share) == list(stage.moments)
    assert stage.all_s == 3


def test_processes_share_the_clients():
    stage = closed(8, 1, 0)
    assert [stage.share(place, 3)[0] for place in range(3)] == [3, 3, 2]
    assert stage.share(0, 3)[1].tolist() == []
    assert (stage.name, closed(1, 1, 0).name) == ("8 clients", "1 client")

"""When requests are to be sent: pure."""

from enum import StrEnum

import numpy as np


class Arrivals(StrEnum):
    """How requests follow each other."""

    POISSON = "poisson"
    CONSTANT = "constant"


def moments(arrivals: Arrivals, rate: float, seconds: float, seed: int) -> list[float]:
    """Return the moments of an open loop, in order, in seconds from its begin.

    Args:
        arrivals: `poisson`: each client comes by itself, knowing of no other; `constant`: one
            after the other, with equal gaps.
        rate: requests in a second; of `poisson`, on average.
        seconds: nothing is sent after that.
        seed: the same seed, the same moments.
    """
    if arrivals is Arrivals.CONSTANT:
        return [count / rate for count in range(int(rate * seconds))]
    rng = np.random.default_rng(seed)
    # A Poisson process is a Poisson number of moments, each anywhere.
    found = np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))
    return [float(moment) for moment in found]

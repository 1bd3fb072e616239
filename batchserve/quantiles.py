"""Quantiles of histograms, of which only the buckets are known."""

import math
from collections.abc import Sequence


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Return a quantile of a histogram, as Prometheus's `histogram_quantile` estimates it.

    Args:
        share: between 0 and 1.
        buckets: upper bounds, ascending, the last infinite, and how many are not above each.

    Returns:
        NaN if nothing was counted; the last finite bound if it is above that.
    """
    if not buckets or not buckets[-1][1]:
        return math.nan
    rank = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / ((count - below) or 1.0)
        lower, below = bound, count
    return lower

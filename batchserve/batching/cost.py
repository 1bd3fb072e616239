"""What forward passes cost: seconds by batch size, for each bucket, learned while running.

An estimate is a curve, which changes slowly, times the machine's present speed, which all buckets
share and which a few passes suffice to follow.
"""

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Mapping

import numpy as np

# How much of a surprise is taken for a change of the machine's speed, and how much for news about
# this batch size; all for the latter if this size was not seen for so many passes.
SPEED_WEIGHT, CURVE_WEIGHT = 0.25, 0.05
STALE, STALE_WEIGHT = 32, 0.7
# A single pass can tell no more than this: it may have met with an accident.
MOST_SURPRISE = 3.0
# As TCP bounds a round trip (RFC 6298): the mean, and some mean deviations.
DEVIATION_WEIGHT, DEVIATIONS = 0.125, 3.0
FIRST_DEVIATION = 0.05
# Of two sizes that are as fast but for this, the smaller one makes less wait.
AS_FAST = 0.97
# A larger size that may be as fast, if measured again, is tried once in so many full batches; in
# which time so much of its cost is forgotten, for it may have been measured at a bad moment.
PERHAPS_AS_FAST, TRY_EVERY, FORGOTTEN = 0.9, 64, 0.02
# Of a pass of which nothing else is known, this share does not depend on the batch's size.
FIXED_SHARE = 0.5
OBSERVATIONS_TO_TRUST = 4
MOST_BUCKETS = 256
# Less than any pass takes; nothing can be learned from a clock that did not move.
SHORTEST_S = 1e-7


class Curve:
    """Seconds by batch size at the machine's usual speed, linear between powers of two.

    Args:
        seconds: by batch size, at least one.
        trusted: measured for this very bucket.
    """

    def __init__(self, seconds: Mapping[int, float], *, trusted: bool) -> None:
        largest = max(seconds)
        doublings = {2**power for power in range(largest.bit_length())}
        self.sizes = sorted(doublings | set(seconds))
        known = sorted(seconds)
        points = [max(seconds[size], SHORTEST_S) for size in known]
        self.seconds: list[float] = np.interp(self.sizes, known, points).tolist()
        self.passes = OBSERVATIONS_TO_TRUST if trusted else 0
        self.full_passes = 0
        self._seen = [-STALE] * len(self.sizes)  # after how many passes
        # The smallest size by (largest, share of the best rate), until the curve changes: it is
        # asked for with every request, and changes with a pass.
        self._smallest: dict[tuple[int, float], int] = {}

    @classmethod
    def from_one_pass(cls, size: int, seconds: float, largest: int) -> "Curve":
        """Guess from one pass."""
        per_item = (1 - FIXED_SHARE) * seconds / size
        fixed = FIXED_SHARE * seconds
        return cls({1: fixed + per_item, largest: fixed + largest * per_item}, trusted=False)

    def at(self, size: int) -> float:
        index = bisect_left(self.sizes, size)
        if index == len(self.sizes):
            # Nothing larger was ever seen: in proportion.
            return self.seconds[-1] * size / self.sizes[-1]
        if self.sizes[index] == size or index == 0:
            return self.seconds[index]
        share = self._share(index, size)
        return (1 - share) * self.seconds[index - 1] + share * self.seconds[index]

    def scale(self, factor: float) -> None:
        self.seconds = [seconds * factor for seconds in self.seconds]

    def is_stale(self, size: int) -> bool:
        """Whether what is known of this size is old."""
        return self.passes - self._seen[self._index(size)] > STALE

    def bend(self, size: int, exponent: float) -> None:
        """Multiply by exp(exponent) at this size, and less the farther from it."""
        self._smallest.clear()
        index = self._index(size)
        share = 1.0 if index == 0 or size > self.sizes[index] else self._share(index, size)
        self.seconds[index] *= math.exp(share * exponent)
        if index:
            self.seconds[index - 1] *= math.exp((1 - share) * exponent)

    def knee(self, most: int) -> int:
        """Return the size up to `most` that is fastest per item; of equals, the smallest."""
        return self.size_worth(AS_FAST, most)

    def limit(self, most: int) -> int:
        """Return the knee, or now and then a larger size whose turn it is to be measured again."""
        knee = self.knee(most)
        if self.full_passes >= TRY_EVERY:
            rates = self._rates(most)
            larger = next((size for size in rates if size > knee), knee)
            if rates[larger] >= PERHAPS_AS_FAST * rates[knee]:
                return larger
        return knee

    def size_worth(self, share: float, most: int) -> int:
        """Return the smallest size that reaches this share of the best rate up to `most`."""
        smallest = self._smallest.get((most, share))
        if smallest is None:
            rates = self._rates(most)
            enough = share * max(rates.values())
            smallest = next(size for size, rate in rates.items() if rate >= enough)
            self._smallest[most, share] = smallest
        return smallest

    def count(self, size: int) -> None:
        """Note that a pass of this size was seen."""
        self.passes += 1
        self._seen[self._index(size)] = self.passes
        knee = self.knee(self.sizes[-1])
        if size < knee:
            return
        self.full_passes = self.full_passes + 1 if size == knee else 0
        if self.full_passes and self.full_passes % TRY_EVERY == 0:
            self._forget_beyond(knee)

    def _index(self, size: int) -> int:
        return min(bisect_left(self.sizes, size), len(self.sizes) - 1)

    def _forget_beyond(self, knee: int) -> None:
        self._smallest.clear()
        beyond = bisect_left(self.sizes, knee + 1)
        self.seconds[beyond:] = [(1 - FORGOTTEN) * seconds for seconds in self.seconds[beyond:]]

    def _rates(self, most: int) -> dict[int, float]:
        """Items per second by batch size."""
        below = self.sizes[: bisect_left(self.sizes, most)]
        return {size: size / self.at(size) for size in [*below, most]}

    def _share(self, index: int, size: int) -> float:
        below, above = self.sizes[index - 1], self.sizes[index]
        return (size - below) / (above - below)


class Cost:
    """Seconds of a forward pass by bucket and batch size.

    Args:
        largest: the largest batch that will ever be formed.
        seed: measured seconds by batch size, of a usual item; None: nothing is known yet.
    """

    caution: float  # from what is expected to what will hardly be exceeded

    def __init__(self, largest: int, seed: Mapping[int, float] | None = None) -> None:
        self.largest = largest
        self._seed = Curve(seed, trusted=True) if seed else None
        self._curves: OrderedDict[Hashable, Curve] = OrderedDict()
        self._speed = 1.0
        self._deviation = FIRST_DEVIATION
        self.caution = math.exp(DEVIATIONS * FIRST_DEVIATION)

    def seconds(self, key: Hashable, size: int) -> float:
        """Return what a pass is expected to take; 0 while nothing is known."""
        curve = self._curve(key)
        return self._speed * curve.at(size) if curve and size else 0.0

    def bound(self, key: Hashable, size: int, deviations: float = DEVIATIONS) -> float:
        """Return what a pass will hardly exceed, or not by so many mean deviations."""
        return math.exp(deviations * self._deviation) * self.seconds(key, size)

    def seconds_for(self, key: Hashable, items: int) -> float:
        """Return what so many items will take, in batches of the best size."""
        best = self.knee(key)
        batches, rest = divmod(items, best)
        seconds = self.seconds(key, rest)
        return seconds + batches * self.seconds(key, best) if batches else seconds

    def knee(self, key: Hashable) -> int:
        """Return the batch size with which the device is fastest per item."""
        curve = self._curve(key)
        return curve.knee(self.largest) if curve else self.largest

    def limit(self, key: Hashable, most: int) -> int:
        """Return the size up to `most` past which a batch should not grow."""
        curve = self._curve(key)
        return curve.limit(most) if curve else most

    def size_worth(self, key: Hashable, share: float) -> int:
        """Return the smallest batch size that reaches this share of the best rate."""
        curve = self._curve(key)
        return curve.size_worth(share, self.largest) if curve else 1

    @property
    def is_known(self) -> bool:
        return self._curve(None) is not None

    def observe(self, key: Hashable, size: int, seconds: float) -> None:
        """Learn from a pass."""
        seconds = max(seconds, SHORTEST_S)
        curve = self._own_curve(key, size, seconds)
        ratio = seconds / (self._speed * curve.at(size))
        surprise = math.log(min(max(ratio, 1 / MOST_SURPRISE), MOST_SURPRISE))
        if curve.passes < OBSERVATIONS_TO_TRUST:
            # Nothing is known of these items yet, so it is they who surprise, not the machine.
            curve.scale(ratio ** (1 / (curve.passes + 1)))
        elif curve.is_stale(size):
            curve.bend(size, STALE_WEIGHT * surprise)
        else:
            self._speed *= math.exp(SPEED_WEIGHT * surprise)
            curve.bend(size, CURVE_WEIGHT * surprise)
            self._deviation += DEVIATION_WEIGHT * (abs(surprise) - self._deviation)
            self.caution = math.exp(DEVIATIONS * self._deviation)
        curve.count(size)

    def _curve(self, key: Hashable) -> Curve | None:
        # Of items never seen, what was seen last is the best guess.
        return self._curves.get(key) or next(reversed(self._curves.values()), self._seed)

    def _own_curve(self, key: Hashable, size: int, seconds: float) -> Curve:
        curve = self._curves.get(key)
        if curve is None:
            curve = self._curves[key] = self._new_curve(size, seconds)
            if len(self._curves) > MOST_BUCKETS:
                self._curves.popitem(last=False)
        self._curves.move_to_end(key)
        return curve

    def _new_curve(self, size: int, seconds: float) -> Curve:
        guess = self._curve(None)
        if guess is None:
            return Curve.from_one_pass(size, seconds / self._speed, self.largest)
        # The seed was measured for the first bucket that comes, most likely.
        is_first = not self._curves
        return Curve(dict(zip(guess.sizes, guess.seconds, strict=True)), trusted=is_first)

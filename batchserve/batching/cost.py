"""What forward passes cost: seconds by batch size, for each bucket, learned while running.

An estimate is a curve of what is usual, which changes slowly, and a drift from it, which all
buckets share and which a few passes suffice to follow.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Mapping

import numpy as np

from batchserve.batching.drift import Drift

# How much of a surprise is taken for news about this batch size; more if it was not seen for so
# many passes, and then the machine has nothing to do with it.
CURVE_WEIGHT, STALE_WEIGHT, STALE = 0.025, 0.4, 32
# How much of a pass is taken for usual, whoever explains it. Without it, nothing would hold the
# curve and the drift where they are: the one could fall forever while the other makes up for it.
USUAL_WEIGHT = 0.002
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
    """Usual seconds by batch size, linear between powers of two.

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
        self._seen = [self.passes] * len(self.sizes)  # after how many passes

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

    def up_to(self, most: int) -> list[tuple[int, float]]:
        """Return the sizes that are told apart, up to `most` and that; with seconds."""
        index = bisect_left(self.sizes, most)
        return [*zip(self.sizes[:index], self.seconds, strict=False), (most, self.at(most))]

    def scale(self, factor: float) -> None:
        self.seconds = [seconds * factor for seconds in self.seconds]

    def bend(self, size: int, more: float) -> None:
        """Multiply by 1 + more at this size, and by less the farther from it."""
        index = self._index(size)
        share = 1.0 if index == 0 or size > self.sizes[index] else self._share(index, size)
        self.seconds[index] *= 1 + share * more
        if index:
            self.seconds[index - 1] *= 1 + (1 - share) * more

    def forget_beyond(self, size: int) -> None:
        """Take larger sizes for a little faster than was measured."""
        beyond = bisect_left(self.sizes, size + 1)
        self.seconds[beyond:] = [(1 - FORGOTTEN) * seconds for seconds in self.seconds[beyond:]]

    def is_stale(self, size: int) -> bool:
        """Whether what is known of this size is old."""
        return self.passes - self._seen[self._index(size)] > STALE

    def count(self, size: int) -> None:
        """Note that a pass of this size was seen."""
        self.passes += 1
        self._seen[self._index(size)] = self.passes

    def _index(self, size: int) -> int:
        return min(bisect_left(self.sizes, size), len(self.sizes) - 1)

    def _share(self, index: int, size: int) -> float:
        below, above = self.sizes[index - 1], self.sizes[index]
        return (size - below) / (above - below)


class Cost:
    """Seconds of a forward pass by bucket and batch size.

    Args:
        largest: the largest batch that will ever be formed.
        seed: measured seconds by batch size, of a usual item; None: nothing is known yet.
    """

    def __init__(self, largest: int, seed: Mapping[int, float] | None = None) -> None:
        self.largest = largest
        self._seed = Curve(seed, trusted=True) if seed else None
        self._curves: OrderedDict[Hashable, Curve] = OrderedDict()
        self._drift = Drift()
        self._deviation = FIRST_DEVIATION
        self._full_passes = 0
        # What was found, until the next pass: it is asked with every request.
        self._found: dict[tuple[Hashable, int, float], int] = {}
        self._expected_s: dict[tuple[Hashable, int], float] = {}

    @property
    def is_known(self) -> bool:
        return self._curve(None) is not None

    def seconds(self, key: Hashable, size: int) -> float:
        """Return what a pass is expected to take; 0 while nothing is known."""
        expected_s = self._expected_s.get((key, size))
        if expected_s is None:
            curve = self._curve(key)
            expected_s = self._drift.seconds(curve.at(size)) if curve and size else 0.0
            self._expected_s[key, size] = expected_s
        return expected_s

    def seconds_for(self, key: Hashable, items: int) -> float:
        """Return what so many items will take, in batches of the best size."""
        best = self.knee(key)
        batches, rest = divmod(items, best)
        seconds = self.seconds(key, rest)
        return seconds + batches * self.seconds(key, best) if batches else seconds

    def bound(self, key: Hashable, size: int) -> float:
        """Return what a pass will hardly exceed."""
        expected_s = self.seconds(key, size)
        return expected_s + self.margin_s(expected_s)

    def margin_s(self, expected_s: float, deviations: float = DEVIATIONS) -> float:
        """Return by how much passes will hardly exceed what is expected of all of them together.

        As if all erred to the same side: what makes one pass slow makes the next one slow.
        """
        return deviations * self._deviation * expected_s

    def knee(self, key: Hashable) -> int:
        """Return the size that is fastest per item; of equals, the smallest."""
        return self.size_worth(key, AS_FAST, self.largest)

    def size_worth(self, key: Hashable, share: float, most: int) -> int:
        """Return the smallest batch size up to `most` that reaches this share of the best rate."""
        size = self._found.get((key, most, share))
        if size is None:
            rates = self._rates(key, most)
            enough = share * max(rates.values())
            size = next(size for size, rate in rates.items() if rate >= enough)
            self._found[key, most, share] = size
        return size

    def limit(self, key: Hashable, most: int) -> int:
        """Return the size up to `most` past which a batch should not grow.

        That is the knee, or now and then a larger size whose turn it is to be measured again.
        """
        knee = self.size_worth(key, AS_FAST, most)
        if self._full_passes >= TRY_EVERY:
            rates = self._rates(key, most)
            larger = next((size for size in rates if size > knee), knee)
            if rates[larger] >= PERHAPS_AS_FAST * rates[knee]:
                return larger
        return knee

    def observe(self, key: Hashable, size: int, seconds: float) -> None:
        """Learn from a pass."""
        seconds = max(seconds, SHORTEST_S)
        curve = self._own_curve(key, size, seconds)
        usual_s = curve.at(size)
        expected_s = self._drift.seconds(usual_s)
        ratio = min(max(seconds / expected_s, 1 / MOST_SURPRISE), MOST_SURPRISE)
        if curve.passes < OBSERVATIONS_TO_TRUST:
            # Nothing is known of these items yet, so it is they who surprise, not the machine.
            # The first one may have compiled something; later ones replace it rather than average.
            curve.scale((self._drift.usual(seconds) / usual_s) ** (1 / min(curve.passes + 1, 2)))
        elif curve.is_stale(size):
            curve.bend(size, STALE_WEIGHT * (ratio - 1))
        else:
            took_s = ratio * expected_s
            self._drift.observe(usual_s, took_s)
            # What the machine does not explain is news about this size, and what lasts is usual.
            # In proportion, not as a logarithm: the drift follows the mean, and where passes
            # scatter the mean of the logarithm is below it.
            unexplained = took_s / self._drift.seconds(usual_s)
            unusual = min(took_s / usual_s, MOST_SURPRISE)
            curve.bend(size, CURVE_WEIGHT * (unexplained - 1) + USUAL_WEIGHT * (unusual - 1))
            self._deviation += DEVIATION_WEIGHT * (abs(ratio - 1) - self._deviation)
        self._forget_found()
        curve.count(size)
        self._count_full(key, curve, size)

    def _count_full(self, key: Hashable, curve: Curve, size: int) -> None:
        knee = self.knee(key)
        if size < knee:
            return
        self._full_passes = self._full_passes + 1 if size == knee else 0
        if self._full_passes and self._full_passes % TRY_EVERY == 0:
            curve.forget_beyond(knee)
            self._forget_found()

    def _forget_found(self) -> None:
        self._found.clear()
        self._expected_s.clear()

    def _rates(self, key: Hashable, most: int) -> dict[int, float]:
        """Items per second by batch size; where nothing is known, as many as there may be."""
        curve = self._curve(key)
        if curve is None:
            return {most: 1.0}
        return {size: size / self._drift.seconds(usual_s) for size, usual_s in curve.up_to(most)}

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
            return Curve.from_one_pass(size, seconds, self.largest)
        # The seed was measured for the first bucket that comes, if that does not look otherwise.
        ratio = seconds / self._drift.seconds(guess.at(size))
        trusted = not self._curves and 1 / MOST_SURPRISE < ratio < MOST_SURPRISE
        return Curve(dict(zip(guess.sizes, guess.seconds, strict=True)), trusted=trusted)

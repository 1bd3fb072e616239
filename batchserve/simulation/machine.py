"""What the hardware does: true seconds of a pass, of a request on the loop, of a decoded input."""

import heapq
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from batchserve.batching.cost import Curve


@dataclass(frozen=True)
class Machine:
    """One device and the process that drives it.

    Attributes:
        forward_s: mean seconds of a pass by batch size; linear between the sizes.
        noise: the standard deviation of the logarithm of a pass's time.
        ratios: measured passes over their mean, drawn from instead of `noise`.
        batch_s: handing a batch over and taking it back, on the loop's thread.
        request_s: reading and answering a request, on the loop's thread; half of it each.
        decode_s: an input, on a decoding thread; 0: on the loop, as a part of `request_s`.
        decoders: threads.
        slowdowns: from when on passes take how many times as long.
    """

    forward_s: Mapping[int, float]
    noise: float = 0.0
    ratios: Sequence[float] = ()
    batch_s: float = 0.0
    request_s: float = 0.0
    decode_s: float = 0.0
    decoders: int = 1
    slowdowns: Sequence[tuple[float, float]] = ()

    @property
    def answer_s(self) -> float:
        """Answering a request, on the loop's thread; reading it takes as long."""
        return self.request_s / 2

    def mean_s(self, size: int) -> float:
        """Return what a pass of a size takes on average, but for slowdowns."""
        return self.batch_s + self._curve.at(size)

    def pass_s(self, size: int, now_s: float, rng: Random) -> float:
        """Draw what this pass takes."""
        return self.batch_s + self._curve.at(size) * self._noise(rng) * self._slowness(now_s)

    def capacity(self, largest: int, items_per_request: float = 1.0) -> float:
        """Return the requests per second that one device can answer at most."""
        per_item_s = min(self.mean_s(size) / size for size in range(1, largest + 1))
        # The device is idle while the batch before is answered.
        busy_s = per_item_s * items_per_request + self.answer_s
        return 1 / max(busy_s, self.request_s)

    def warm_up(self, largest: int) -> dict[int, float]:
        """Return what the server measures before it accepts: seconds by batch size."""
        sizes = {2**power for power in range(largest.bit_length())} | {largest}
        return {size: self._curve.at(size) for size in sorted(sizes)}

    @cached_property
    def _curve(self) -> Curve:
        return Curve(self.forward_s, trusted=True)

    def _noise(self, rng: Random) -> float:
        if self.ratios:
            return rng.choice(self.ratios)
        if not self.noise:
            return 1.0
        return math.exp(rng.gauss(-(self.noise**2) / 2, self.noise))

    def _slowness(self, now_s: float) -> float:
        before = bisect_right(self.slowdowns, (now_s, math.inf))
        return self.slowdowns[before - 1][1] if before else 1.0


class Line:
    """Threads that serve in the order of arrival.

    Args:
        servers: how many.
    """

    def __init__(self, servers: int = 1) -> None:
        self._free_s = [0.0] * servers

    def take(self, now_s: float, seconds: float) -> float:
        """Occupy the first thread that is free; return when it has done so much work."""
        done_s = max(now_s, self._free_s[0]) + seconds
        heapq.heapreplace(self._free_s, done_s)
        return done_s

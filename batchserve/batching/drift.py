"""How the machine's present pace differs from the usual one: T = a·usual + b, from the last passes.

A busy neighbour makes everything take longer in proportion (a); a stall takes as long whatever it
hits (b). Exponentially weighted least squares tell them apart once passes of several sizes were
seen. Before that, a surprise is taken for a stall rather than for a slow machine: larger batches
then look worth trying, and show what is true; the opposite belief would never be put to the test.
"""

# What is left of a pass's weight after the next one.
FADE = 0.95
# However fast the machine has become, larger batches take longer.
LEAST_PACE = 0.1
# Passes that would have to be seen to believe, half and half, in another a and in another b.
FAITH_IN_PACE, FAITH_IN_NO_STALLS = 1.0, 0.125


class Drift:
    """A line through the last passes. Starts as the usual pace: a = 1 and b = 0."""

    def __init__(self) -> None:
        self._passes = 0.0
        self._usual = 0.0
        self._usual_squared = 0.0
        self._excess = 0.0
        self._usual_times_excess = 0.0
        self._pace = 1.0
        self._stall_s = 0.0

    def seconds(self, usual_s: float) -> float:
        """Return what a pass takes now that takes `usual_s` usually."""
        # Far from what was seen, the line may lead below what can be.
        return max(self._pace * usual_s + self._stall_s, usual_s / 4)

    def usual(self, seconds: float) -> float:
        """Return what a pass takes usually that takes so long now."""
        return max((seconds - self._stall_s) / self._pace, seconds / 4)

    def observe(self, usual_s: float, seconds: float) -> None:
        """Learn from a pass."""
        excess_s = seconds - usual_s
        self._passes = FADE * self._passes + 1
        self._usual = FADE * self._usual + usual_s
        self._usual_squared = FADE * self._usual_squared + usual_s**2
        self._excess = FADE * self._excess + excess_s
        self._usual_times_excess = FADE * self._usual_times_excess + usual_s * excess_s
        self._fit()

    def _fit(self) -> None:
        # The normal equations of ridge regression, in a - 1 and b.
        slope = self._usual_squared * (1 + FAITH_IN_PACE / self._passes)
        level = self._passes + FAITH_IN_NO_STALLS
        determinant = slope * level - self._usual**2
        slower = self._usual_times_excess * level - self._excess * self._usual
        self._pace = max(1 + slower / determinant, LEAST_PACE)
        self._stall_s = (
            self._excess * slope - self._usual_times_excess * self._usual
        ) / determinant

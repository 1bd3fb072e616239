"""What failed passes cost beside: by how much longer everything takes while inputs are bad."""

# What is left of a pass's weight after the next one.
FADE = 0.95
# One bad input in the first few batches says little of those to come.
PASSES_TO_TRUST = 10


class Toll:
    """The device's seconds for second tries, relative to those for batches as they were formed."""

    def __init__(self) -> None:
        self._passes = 0
        self._first_s = 0.0
        self._again_s = 0.0

    @property
    def factor(self) -> float:
        """By how much longer a batch takes, with what may become of it; 1: nothing fails."""
        if not self._again_s:
            return 1.0
        unseen = max(1.0, PASSES_TO_TRUST / self._passes)
        return 1 + self._again_s / (unseen * self._first_s)

    def observe(self, seconds: float, *, again: bool) -> None:
        """Learn from a pass: of a batch as it was formed, or of a part of one that had failed."""
        if again:
            self._again_s += seconds
            return
        self._passes += 1
        self._first_s = FADE * self._first_s + seconds
        self._again_s *= FADE

"""From what was measured to what is recommended: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchserve.tuning.outcome import Outcome
from batchserve.tuning.variant import Variant

# How much faster one must be to be worth what it costs more: a compiler at start, or digits.
WORTH = 0.1


@dataclass(frozen=True)
class Choice:
    """What to serve with.

    Attributes:
        best: the variant that is recommended.
        plain: what it is compared with: fp32, not compiled.
    """

    best: Outcome
    plain: Outcome

    @property
    def gain(self) -> float:
        """How many times as many items a second."""
        return self.best.rate / self.plain.rate

    @property
    def later(self) -> float:
        """How many times as long a lone item takes."""
        return self.best.alone_s / self.plain.alone_s


def choose(outcomes: Sequence[Outcome], tolerance: float) -> Choice | None:
    """Choose the fastest whose answers are as good; what costs more must be worth it.

    From one price to the next (see `price`), the fastest must be faster by a tenth.

    Args:
        outcomes: of one model; the first is the one that others are compared with.
        tolerance: see `Difference.within`.

    Returns:
        None: nothing was measured whose answers are as good.
    """
    good = [one for one in outcomes if one.measured and one.good(tolerance)]
    if not good:
        return None
    best: Outcome | None = None
    for level in sorted({price(one.variant) for one in good}):
        fastest = max(
            (one for one in good if price(one.variant) == level), key=lambda one: one.rate
        )
        if best is None or fastest.rate >= (1 + WORTH) * best.rate:
            best = fastest
    return None if best is None else Choice(best, outcomes[0])


def price(variant: Variant) -> tuple[bool, bool]:
    """Return what a variant costs: digits of the answers before a compiler at start."""
    return not variant.keeps_answers, variant.compile

"""Outcomes as a sweep leaves them, in few words."""

from batchserve.runners.difference import Difference
from batchserve.tuning.outcome import Outcome
from batchserve.tuning.variant import Variant

SAME = Difference(largest=0.0, magnitude=1.0, inputs=6, same_best=6)
PLAIN = Variant()
COMPILED = Variant(compile=True)
BF16 = Variant("bf16")


def outcome(
    variant: Variant = PLAIN,
    seconds: dict[int, float] | None = None,
    difference: Difference | None = SAME,
    threads: int = 1,
    **changes,
) -> Outcome:
    """One variant, with seconds of a pass by batch size."""
    made = Outcome(variant, difference=difference, bytes=4_000_000, ready_s=1.5, **changes)
    for size, taken_s in (seconds or {}).items():
        made.add(threads, size, taken_s)
    return made

"""Which sizes to try, and up to which larger batches pay: pure."""

from collections.abc import Mapping

# A size pays if an item takes so much less in it; a search ends after so many in a row that do not.
GAIN = 0.05
DISAPPOINTMENTS = 2


def powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4 and so on, and the most itself."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def largest_that_pays(seconds: Mapping[int, float]) -> int:
    """Return the largest size that beats, per item, every smaller one that does.

    Args:
        seconds: of a pass, by batch size, from the smallest size on.
    """
    sizes = iter(seconds)
    best = next(sizes)
    for size in sizes:
        if seconds[size] / size <= (1 - GAIN) * seconds[best] / best:
            best = size
    return best


def disappoints(seconds: Mapping[int, float]) -> bool:
    """Whether the last sizes have not paid, so that the next one is not worth a try."""
    sizes = list(seconds)
    return len(sizes) - 1 - sizes.index(largest_that_pays(seconds)) >= DISAPPOINTMENTS

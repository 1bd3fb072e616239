"""Which of several media types a client likes best: its Accept header, as RFC 9110, 12.5.1."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
RANGE = re.compile(r"[\w!#$&^.+-]+/([\w!#$&^.+-]+|\*)|\*/\*")

Ranges = dict[str, float]


@lru_cache(maxsize=256)  # clients send few different ones, each of them often
def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """Return the offered type with the greatest weight, the first of equals; None: there is none.

    Args:
        accept: the header. What is malformed in it is passed over, and if nothing is left, any
            type will do. Parameters other than the weight are not looked at.
        offered: media types in lower case.
    """
    ranges = dict(_ranges(accept)) or {"*/*": 1.0}
    best = max(offered, key=lambda kind: _weight(kind, ranges))
    return best if _weight(best, ranges) else None


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for element in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in element.split(";"))
        stated = [part[2:].strip() for part in parameters if part.startswith("q=")]
        weight = stated[0] if stated else "1"
        if RANGE.fullmatch(kind) and WEIGHT.fullmatch(weight):
            yield kind, float(weight)


def _weight(kind: str, ranges: Ranges) -> float:
    """Return the weight of the range that names a type most precisely."""
    among = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return next((ranges[name] for name in among if name in ranges), 0.0)

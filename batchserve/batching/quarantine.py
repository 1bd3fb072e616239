"""Inputs that made a forward pass fail all by themselves, known again when they come back."""

import math
from collections import OrderedDict
from dataclasses import dataclass

# Once: it may have been chance, and travels alone. Twice: it is not computed again for a while.
ALONE, REFUSED = 1, 2
FORGET_S = 60.0
MOST_INPUTS = 1024


@dataclass(slots=True)
class _Offences:
    count: int
    last_s: float


class Quarantine:
    """How often each input was guilty lately, by its fingerprint."""

    def __init__(self) -> None:
        self._guilty: OrderedDict[int, _Offences] = OrderedDict()
        self._succeeded_s = -math.inf

    def forget(self, now_s: float) -> None:
        """Forget whoever was guilty long ago: as long as anybody is known, all are looked at."""
        while self._guilty:
            oldest = next(iter(self._guilty.values()))
            if now_s - oldest.last_s <= FORGET_S:
                return
            self._guilty.popitem(last=False)

    def offences(self, fingerprint: int, now_s: float) -> int:
        """Return how often this input was guilty lately."""
        known = self._guilty.get(fingerprint)
        if known is None:
            return 0
        if now_s - known.last_s > FORGET_S:
            del self._guilty[fingerprint]
            return 0
        return known.count

    def blame(self, fingerprint: int, now_s: float) -> None:
        """This input has failed alone.

        It counts as another time only if a pass has succeeded since the last: where everything
        fails, it is the model.
        """
        before = self._guilty.get(fingerprint)
        offences = self.offences(fingerprint, now_s)
        is_another = before is None or not offences or self._succeeded_s >= before.last_s
        self._guilty[fingerprint] = _Offences(offences + is_another, now_s)
        self._guilty.move_to_end(fingerprint)
        if len(self._guilty) > MOST_INPUTS:
            self._guilty.popitem(last=False)

    def succeeded(self, now_s: float) -> None:
        """A pass has succeeded, whoever was in it."""
        self._succeeded_s = now_s

    def absolve(self, fingerprint: int) -> None:
        """This input has been computed after all."""
        self._guilty.pop(fingerprint, None)

    def __len__(self) -> int:
        return len(self._guilty)

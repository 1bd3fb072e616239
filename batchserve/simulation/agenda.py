"""What happens when, in virtual time."""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class Agenda:
    """Acts in the order of their times; at one time, in the order in which they were entered.

    `now_s` is the time, in seconds.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._acts: list[tuple[float, bool, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = count()

    def at(
        self, when_s: float, act: Callable[..., None], *arguments: Any, last: bool = False
    ) -> None:
        """Enter an act.

        Args:
            when_s: never before now.
            act: is called then.
            arguments: of the act.
            last: after everything else that happens at that time.
        """
        when_s = max(when_s, self.now_s)
        heapq.heappush(self._acts, (when_s, last, next(self._number), act, arguments))

    def run(self) -> None:
        """Let everything happen."""
        while self._acts:
            self.now_s, _, _, act, arguments = heapq.heappop(self._acts)
            act(*arguments)

    def __len__(self) -> int:
        return len(self._acts)

"""A request on its way through a simulated server, and what came of it."""

from collections.abc import Callable
from typing import Any

from batchserve.batch import Item, Terms
from batchserve.errors import RequestError
from batchserve.simulation.traffic import Ask

ANSWERED = "answered"


class Promise:
    """As much of an `asyncio.Future` as the scheduler uses.

    Args:
        on_error: called with the exception, if there is one.
    """

    __slots__ = ("_done", "_on_error")

    def __init__(self, on_error: Callable[[RequestError], None]) -> None:
        self._done = False
        self._on_error = on_error

    def done(self) -> bool:
        return self._done

    def set_result(self, _result: object) -> None:
        self._done = True

    def set_exception(self, error: RequestError) -> None:
        self._done = True
        self._on_error(error)

    def cancel(self) -> None:
        self._done = True


class Visit:
    """One request.

    Attributes:
        ask: what was sent.
        first_s: when the client began to wait, tries that were refused included.
        tries: how often it has been sent before.
        worker: which process it has come to.
        terms: what it was promised.
        announced_s: when the batcher first heard of it.
        items: on the queue or past it.
        unanswered: how many of them.
        outcome: `answered`, an error's code, or None while it is under way.
        done_s: when the client knew.
    """

    __slots__ = (
        "announced_s", "ask", "done_s", "first_s", "items", "outcome", "terms", "tries",
        "unanswered", "worker",
    )  # fmt: skip

    def __init__(self, ask: Ask, first_s: float, tries: int, worker: int) -> None:
        self.ask = ask
        self.first_s = first_s
        self.tries = tries
        self.worker = worker
        self.terms = Terms(first_s, first_s)
        self.announced_s = first_s
        self.items: list[Item] = []
        self.unanswered = 0
        self.outcome: str | None = None
        self.done_s = first_s

    def put(self, now_s: float, on_error: Callable[[RequestError], None]) -> list[Item]:
        """Return one item for each input, queued now."""
        self.unanswered = self.ask.items
        self.items = [self._item(now_s, on_error) for _ in range(self.ask.items)]
        return self.items

    def end(self, outcome: str, now_s: float) -> None:
        """The client knows."""
        self.outcome = outcome
        self.done_s = now_s
        self.items = []

    @property
    def latency_s(self) -> float:
        return self.done_s - self.first_s

    def _item(self, now_s: float, on_error: Callable[[RequestError], None]) -> Item:
        nothing: Any = None
        promise: Any = Promise(on_error)
        return Item(nothing, self.ask.bucket, self, self.terms, now_s, promise)

"""Which variant is measured when, so that the time goes to those that may win."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from batchserve.batching.knee import disappoints, powers_of_two
from batchserve.errors import LoadError
from batchserve.runners.base import OutOfMemory
from batchserve.runners.difference import Difference
from batchserve.tuning.budget import Budget, TimeUp, within
from batchserve.tuning.outcome import Outcome
from batchserve.tuning.variant import Variant

# The batch by which variants are first compared, beside a single item.
USUAL = 8
# How many times as slow as the best a variant is given up: alone, with a batch, after a round.
HOPELESS_ALONE, HOPELESS, HOPELESS_AFTER_A_ROUND = 4.0, 2.0, 1.4
# What keeps the answers is compiled first unless something else is so many times as fast.
HEAD_START = 1.5
ROUNDS = 5
# For the rounds, of the budget, and at most; compiling gets no more than what is left then.
FOR_ROUNDS, FOR_ROUNDS_S = 0.25, 30.0
LONG_PASS_S = 2.0


class Candidate(Protocol):
    """A model that is ready to run in one way; see `runners/candidate.py`."""

    bytes: int

    def answers(self) -> list[Any]: ...
    def differs(self, expected: Sequence[Any]) -> Difference: ...
    def seconds(self, threads: int, size: int) -> float: ...


@dataclass(frozen=True)
class Plan:
    """What there is to measure.

    Attributes:
        variants: those that are not compiled; the first is what the others are compared with.
        compile: those of them that are tried compiled, too, if they are good.
        threads: from the fewest to the most.
        largest: batch size.
        tolerance: see `Difference.within`; who differs by more gets no more of the time.
        longest_s: no larger batch is tried than what would take so long.
    """

    variants: Sequence[Variant]
    compile: Collection[Variant]
    threads: Sequence[int]
    largest: int
    tolerance: float
    longest_s: float = LONG_PASS_S


class Watcher(Protocol):
    """Who is told what goes on."""

    def show(self, doing: str) -> None: ...
    def tell(self, outcome: Outcome) -> None: ...


class Sweep:
    """One model's variants, measured within a budget.

    Args:
        make: makes the model ready in a way, with a number of threads.
        plan: what there is to measure.
        budget: the seconds for it. The first variant gets measured even if it needs more.
        watcher: is told.
        clock: of seconds.
        limit: makes what takes longer than some seconds end with `TimeUp`.
        abandon: ends what such a thing has left behind.

    Attributes:
        outcomes: what has been found out so far, also if it is interrupted.
    """

    def __init__(
        self,
        make: Callable[[Variant, int], Candidate],
        plan: Plan,
        budget: Budget,
        watcher: Watcher,
        *,
        clock: Callable[[], float] = time.monotonic,
        limit: Callable[[float], AbstractContextManager[None]] = within,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self._make, self._plan, self._budget, self._watcher = make, plan, budget, watcher
        self._clock, self._limit, self._abandon = clock, limit, abandon
        self._candidates: dict[Variant, Candidate] = {}
        self._expected: list[Any] = []
        self.outcomes: list[Outcome] = []

    def run(self) -> None:
        """Measure until all is measured, or the budget is spent.

        Raises:
            KeyboardInterrupt: somebody wants it to end.
            LoadError: the first variant does not run.
        """
        first, *others = self._plan.variants
        reference = self._look_at_reference(first)
        for variant in others:
            self._look_at(variant, reference.threads, self._budget.left_s)
        reserve_s = min(FOR_ROUNDS * self._budget.seconds, FOR_ROUNDS_S)
        for variant, threads in self._to_compile():
            self._look_at(variant, threads, self._budget.left_s - reserve_s)
        self._go_round()

    def _look_at_reference(self, variant: Variant) -> Outcome:
        outcome = self._begin(variant)
        try:
            self._ready(outcome, self._plan.threads[-1])
            self._try_threads(outcome, min(USUAL, self._plan.largest))
        except Exception as error:
            raise LoadError(f"{variant} does not run: {type(error).__name__}: {error}") from error
        self._watcher.tell(outcome)
        return outcome

    def _try_threads(self, outcome: Outcome, size: int) -> None:
        """Time passes with ever fewer threads, until they are clearly too few."""
        for threads in reversed(self._plan.threads):
            self._time(outcome, threads, size)
            if outcome.seconds(threads)[size] > HOPELESS * outcome.pass_s:
                break
        self._time(outcome, outcome.threads, 1)

    def _look_at(self, variant: Variant, threads: int, for_s: float) -> None:
        outcome = self._begin(variant)
        try:
            with self._limit(for_s):
                if for_s <= 0:
                    raise TimeUp
                outcome.dropped = self._ready(outcome, threads) or self._why_not(outcome, threads)
        except TimeUp:
            self._abandon()
            outcome.dropped = f"the {max(0.0, for_s):.0f} s that were left did not suffice for it"
        except Exception as error:  # noqa: BLE001 - as models raise that do not run in bf16, say
            outcome.dropped = f"does not run so: {_first_line(error)}"
        if outcome.dropped is not None:
            # Its memory may be what the next one needs.
            self._candidates.pop(variant, None)
        self._watcher.tell(outcome)

    def _begin(self, variant: Variant) -> Outcome:
        outcome = Outcome(variant)
        self.outcomes.append(outcome)
        doing = "compiling" if variant.compile else "making it ready"
        self._watcher.show(f"{variant}: {doing}")
        return outcome

    def _ready(self, outcome: Outcome, threads: int) -> str | None:
        """Make a variant ready and ask it; return why that was given up, if it was."""
        began_s = self._clock()
        candidate = self._candidates[outcome.variant] = self._make(outcome.variant, threads)
        outcome.bytes = candidate.bytes
        # What is compiled is so once for one item, and once for more: as at warm-up.
        self._time(outcome, threads, 1)
        outcome.ready_s = self._clock() - began_s
        if self._expected and (reason := self._too_slow(outcome, 1, HOPELESS_ALONE)):
            return reason
        if self._plan.largest > 1:
            self._time(outcome, threads, 2)
        self._expected = self._expected or candidate.answers()
        outcome.difference = candidate.differs(self._expected)
        outcome.ready_s = self._clock() - began_s
        return None

    def _why_not(self, outcome: Outcome, threads: int) -> str | None:
        """Return why a variant is not worth more of the time."""
        if not outcome.good(self._plan.tolerance):
            return f"its answers {outcome.difference}"
        size = min(USUAL, self._plan.largest)
        self._time(outcome, threads, size)
        return self._too_slow(outcome, size, HOPELESS)

    def _too_slow(self, outcome: Outcome, size: int, limit: float) -> str | None:
        """Return how much slower than the best it is, if that is more than a limit."""
        best = max(
            (one for one in self._alive if one is not outcome), key=lambda one: one.fastest(size)
        )
        for again in (False, True):
            if again:
                # It may have been the machine, which had something else to do meanwhile.
                for one in (best, outcome):
                    self._time(one, one.threads, size)
            slower = best.fastest(size) / outcome.fastest(size)
            if slower <= limit:
                return None
        return f"{slower:.1f} times as slow as the best, in batches of {size}"

    def _to_compile(self) -> Iterator[tuple[Variant, int]]:
        """Yield what to compile, the likely winner first; of both orders in memory, the faster."""

        def promise(outcome: Outcome) -> float:
            return outcome.rate * (HEAD_START if outcome.variant.keeps_answers else 1)

        seen = set()
        for outcome in sorted(self._alive, key=promise, reverse=True):
            variant = outcome.variant
            kind = variant.precision, variant.quantize
            if kind not in seen and variant in self._plan.compile:
                seen.add(kind)
                yield variant.compiled, outcome.threads

    @property
    def _alive(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.variant in self._candidates]

    def _go_round(self) -> None:
        """Time all sizes of all variants in turns, as the machine's pace varies."""
        sizes, longest_s = powers_of_two(self._plan.largest), self._plan.longest_s
        for number in range(ROUNDS):
            for size in sizes:
                for outcome in self._alive:
                    wanted = size in outcome.sizes if number else _may_pay(outcome, size, longest_s)
                    if wanted and not self._time_in_budget(outcome, outcome.threads, size):
                        return
            if number == 0:
                self._drop_the_slow()
                self._try_other_threads()

    def _drop_the_slow(self) -> None:
        best = max(one.rate for one in self._alive)
        for outcome in self._alive[1:]:
            if outcome.rate * HOPELESS_AFTER_A_ROUND < best:
                del self._candidates[outcome.variant]

    def _try_other_threads(self) -> None:
        for outcome in self._alive:
            # What is compiled is compiled for so many threads.
            others = () if outcome.variant.compile else self._plan.threads
            for threads in others:
                if threads not in {tried for tried, _ in outcome.cells}:
                    self._time_in_budget(outcome, threads, outcome.knee)

    def _time_in_budget(self, outcome: Outcome, threads: int, size: int) -> bool:
        """Time a pass; return whether the budget sufficed for it."""
        if 2 * _expected_s(outcome, size) > self._budget.left_s:
            return False
        try:
            with self._limit(self._budget.left_s):
                self._time(outcome, threads, size)
        except TimeUp:
            return False
        except OutOfMemory:
            outcome.too_large = size
        return True

    def _time(self, outcome: Outcome, threads: int, size: int) -> None:
        self._watcher.show(f"{outcome.variant}: {threads} threads, batch of {size}")
        seconds = self._candidates[outcome.variant].seconds(threads, size)
        outcome.add(threads, size, seconds)


def _may_pay(outcome: Outcome, size: int, longest_s: float) -> bool:
    seconds = outcome.seconds(outcome.threads)
    smaller = {tried: taken_s for tried, taken_s in seconds.items() if tried < size}
    if outcome.too_large is not None and size >= outcome.too_large:
        return False
    return not smaller or not (disappoints(smaller) or _expected_s(outcome, size) > longest_s)


def _expected_s(outcome: Outcome, size: int) -> float:
    seconds = outcome.seconds(outcome.threads)
    nearest = max((tried for tried in seconds if tried <= size), default=min(seconds))
    return seconds[nearest] * size / nearest


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]

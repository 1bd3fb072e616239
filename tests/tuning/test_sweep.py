"""Which variant gets how much of the time, with candidates on virtual time."""

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest

from batchserve.errors import LoadError
from batchserve.runners.base import OutOfMemory
from batchserve.runners.difference import Difference
from batchserve.tuning.budget import Budget, TimeUp, within
from batchserve.tuning.outcome import Outcome
from batchserve.tuning.sweep import ROUNDS, Plan, Sweep
from batchserve.tuning.variant import Variant
from tests.tuning.outcomes import BF16, COMPILED, PLAIN

CHANNELS_LAST = Variant(channels_last=True)


@dataclass
class Machine:
    """A clock that candidates move: seconds of an item by variant, beside 10 ms of a pass."""

    item_s: dict[Variant, float]
    ready_s: dict[Variant, float] = field(default_factory=dict)
    difference: dict[Variant, float] = field(default_factory=dict)
    fails: dict[Variant, Exception] = field(default_factory=dict)
    memory: int = 10**6
    more_threads: float = 1.0
    now_s: float = 0.0
    until_s: float = float("inf")
    abandoned: int = 0
    timed: list[tuple[Variant, int, int]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    told: list[Outcome] = field(default_factory=list)

    def work(self, seconds: float) -> None:
        self.now_s = min(self.now_s + seconds, self.until_s)
        if self.now_s == self.until_s:
            raise TimeUp

    def limit(self, seconds: float) -> AbstractContextManager[None]:
        # Whoever enters ends the one before: limits are not nested here.
        self.until_s = self.now_s + seconds
        return nullcontext()

    def make(self, variant: Variant, threads: int) -> "Fake":
        if variant in self.fails:
            raise self.fails[variant]
        self.work(self.ready_s.get(variant, 0.1))
        return Fake(self, variant)

    def abandon(self) -> None:
        self.abandoned += 1

    def show(self, doing: str) -> None:
        self.shown.append(doing)

    def tell(self, outcome: Outcome) -> None:
        self.told.append(outcome)

    def sweep(self, *variants: Variant, budget: float = 1000, **changes) -> Sweep:
        plan = Plan(
            **{
                "variants": variants,
                "compile": (),
                "threads": [1],
                "largest": 16,
                "tolerance": 0.02,
                **changes,
            }
        )
        clock = Budget(budget, lambda: self.now_s)
        made = Sweep(
            self.make,
            plan,
            clock,
            self,
            clock=lambda: self.now_s,
            limit=self.limit,
            abandon=self.abandon,
        )
        made.run()
        return made


class Fake:
    bytes = 100

    def __init__(self, machine: Machine, variant: Variant) -> None:
        self._machine, self._variant = machine, variant

    def answers(self) -> list[Any]:
        return [0.0]

    def differs(self, expected: Any) -> Difference:
        return Difference(self._machine.difference.get(self._variant, 0.0), 1.0, 1)

    def seconds(self, threads: int, size: int) -> float:
        machine = self._machine
        if size > machine.memory:
            raise OutOfMemory
        taken_s = (0.01 + size * machine.item_s[self._variant]) / (
            machine.more_threads if threads > 1 else 1
        )
        machine.timed.append((self._variant, threads, size))
        machine.work(taken_s)
        return taken_s


def dropped(sweep: Sweep) -> dict[Variant, str | None]:
    return {one.variant: one.dropped for one in sweep.outcomes}


def test_all_sizes_are_timed_in_turns_in_each_round():
    machine = Machine({PLAIN: 0.01, CHANNELS_LAST: 0.009})
    sweep = machine.sweep(PLAIN, CHANNELS_LAST)
    for outcome in sweep.outcomes:
        assert outcome.dropped is None
        assert sorted(outcome.seconds(1)) == [1, 2, 4, 8, 16]
        assert len(outcome.cells[1, 16]) == ROUNDS
    last = machine.timed[-4:]
    assert [(variant, size) for variant, _, size in last] == [
        (PLAIN, 8), (CHANNELS_LAST, 8), (PLAIN, 16), (CHANNELS_LAST, 16),
    ]  # fmt: skip


def test_what_is_hopeless_is_given_up_at_once():
    machine = Machine({PLAIN: 0.01, BF16: 0.5, CHANNELS_LAST: 0.03})
    sweep = machine.sweep(PLAIN, BF16, CHANNELS_LAST)
    reasons = dropped(sweep)
    assert reasons[PLAIN] is None
    assert reasons[BF16] == "25.5 times as slow as the best, in batches of 1"
    assert reasons[CHANNELS_LAST] == "2.8 times as slow as the best, in batches of 8"
    assert max(size for variant, _, size in machine.timed if variant == BF16) == 1


def test_who_answers_otherwise_gets_no_more_of_the_time():
    machine = Machine({PLAIN: 0.01, BF16: 0.001}, difference={BF16: 0.5})
    sweep = machine.sweep(PLAIN, BF16)
    assert dropped(sweep)[BF16] == (
        "its answers differ by up to 0.5 of the largest number, for 1 input"
    )
    assert sweep.outcomes[1].measured


def test_what_does_not_run_so_is_told_and_the_others_go_on():
    machine = Machine(
        {PLAIN: 0.01, CHANNELS_LAST: 0.01}, fails={BF16: RuntimeError("no bf16 here\nat …")}
    )
    sweep = machine.sweep(PLAIN, BF16, CHANNELS_LAST)
    assert dropped(sweep)[BF16] == "does not run so: RuntimeError: no bf16 here"
    assert dropped(sweep)[CHANNELS_LAST] is None


def test_a_model_that_does_not_run_at_all_is_an_error():
    with pytest.raises(LoadError, match="fp32 does not run: ValueError: broken"):
        Machine({}, fails={PLAIN: ValueError("broken")}).sweep(PLAIN)


def test_the_good_ones_are_compiled_of_both_layouts_the_faster():
    last = CHANNELS_LAST.compiled
    machine = Machine({PLAIN: 0.01, CHANNELS_LAST: 0.008, BF16: 0.5, last: 0.003})
    sweep = machine.sweep(
        PLAIN, CHANNELS_LAST, BF16, compile=frozenset({PLAIN, CHANNELS_LAST, BF16})
    )
    assert [one.variant for one in sweep.outcomes] == [PLAIN, CHANNELS_LAST, BF16, last]
    assert f"{last}: compiling" in machine.shown


def test_what_keeps_the_answers_is_compiled_first_unless_it_is_much_slower():
    item_s = {PLAIN: 0.01, BF16: 0.009, COMPILED: 0.005, BF16.compiled: 0.005}
    both = frozenset({PLAIN, BF16})
    order = Machine(item_s).sweep(PLAIN, BF16, compile=both).outcomes[2:]
    assert [one.variant for one in order] == [COMPILED, BF16.compiled]
    order = Machine({**item_s, BF16: 0.001}).sweep(PLAIN, BF16, compile=both).outcomes[2:]
    assert order[0].variant == BF16.compiled


def test_the_budget_is_kept_while_something_compiles():
    machine = Machine({PLAIN: 0.01, COMPILED: 0.001}, ready_s={COMPILED: 600})
    sweep = machine.sweep(PLAIN, budget=60, compile=frozenset({PLAIN}))
    assert dropped(sweep)[COMPILED] == "the 45 s that were left did not suffice for it"
    assert machine.now_s <= 60
    assert machine.abandoned == 1
    assert len(sweep.outcomes[0].cells[1, 16]) == ROUNDS


def test_the_budget_is_kept_in_the_rounds_and_larger_batches_wait_for_it():
    machine = Machine({PLAIN: 0.01})
    sweep = machine.sweep(PLAIN, budget=1)
    assert machine.now_s <= 1
    assert sweep.outcomes[0].measured


def test_the_first_is_measured_however_small_the_budget():
    machine = Machine({PLAIN: 0.01, BF16: 0.01})
    sweep = machine.sweep(PLAIN, BF16, budget=0.01)
    assert sweep.outcomes[0].measured
    assert dropped(sweep)[BF16] == "the 0 s that were left did not suffice for it"


def test_sizes_end_where_the_memory_does():
    sweep = Machine({PLAIN: 0.001}, memory=8).sweep(PLAIN)
    assert max(sweep.outcomes[0].sizes) == 8


def test_sizes_end_where_a_pass_takes_too_long():
    sweep = Machine({PLAIN: 0.1}).sweep(PLAIN, largest=64, longest_s=0.5)
    assert max(sweep.outcomes[0].sizes) == 8  # by which all are compared
    assert max(sweep.outcomes[0].seconds(1)) == 8


def test_threads_are_tried_from_the_most_and_all_that_may_matter_later():
    machine = Machine({PLAIN: 0.01, CHANNELS_LAST: 0.01}, more_threads=1.8)
    sweep = machine.sweep(PLAIN, CHANNELS_LAST, threads=[1, 2])
    assert [one.threads for one in sweep.outcomes] == [2, 2]
    assert (CHANNELS_LAST, 1, sweep.outcomes[1].knee) in machine.timed


def test_what_is_interrupted_leaves_what_was_measured():
    machine = Machine({PLAIN: 0.01, BF16: 0.01})

    def interrupt(_outcome: Outcome) -> None:
        raise KeyboardInterrupt

    machine.tell = interrupt  # type: ignore[method-assign,assignment]
    budget = Budget(100, lambda: machine.now_s)
    sweep = Sweep(
        machine.make, Plan([PLAIN, BF16], (), [1], 16, 0.02), budget, machine, limit=machine.limit
    )
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    assert [one.measured for one in sweep.outcomes] == [True]


def test_time_that_is_up_interrupts_whatever_goes_on():
    with pytest.raises(TimeUp), within(0.01):
        threading.Event().wait()


def test_time_that_was_enough_is_not_heard_of_again():
    with within(100):
        done = True
    assert done

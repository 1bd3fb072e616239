"""One server process in virtual time: what `Batcher` and the handlers do around a `Scheduler`.

Whatever happens at one instant happens before the next batch is decided, as in production, where
the loop lets everything in that lies in the socket buffers. A test holds both to the same batches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, cast

from batchserve.batch import Batch, Item, Terms
from batchserve.batching.scheduler import Scheduler
from batchserve.errors import DeadlineExceeded, RequestError, TooLarge, Unavailable
from batchserve.simulation.agenda import Agenda
from batchserve.simulation.machine import Line, Machine
from batchserve.simulation.visit import ANSWERED, Visit
from batchserve.web.terms import PRIORITY, TIMEOUT, read_terms


@dataclass(frozen=True, slots=True)
class Promises:
    """What the configuration promises, in milliseconds.

    Attributes:
        default_timeout_ms: `server.default_timeout_ms`.
        slo_ms: the model's; None: no promise but that.
    """

    default_timeout_ms: float = 30_000
    slo_ms: float | None = None


class Worker:
    """A process with one model on one device.

    Args:
        agenda: the time, and what will happen.
        scheduler: production's.
        machine: what things take.
        promises: what requests are promised.
        rng: draws what passes take.
        on_end: called with each request that has its answer, and with its Retry-After.
        on_batch: called with each batch after its pass, and the number of items that still wait.
    """

    def __init__(
        self,
        agenda: Agenda,
        scheduler: Scheduler,
        machine: Machine,
        promises: Promises,
        rng: Random,
        on_end: Callable[[Visit, float | None], None],
        on_batch: Callable[[Batch, int], None],
    ) -> None:
        self.scheduler = scheduler
        self._agenda = agenda
        self._machine = machine
        self._promises = promises
        self._rng = rng
        self._on_end = on_end
        self._on_batch = on_batch
        self._loop = Line()
        self._decoders = Line(machine.decoders)
        self._arriving: set[Visit] = set()
        self._computing = False
        self._asked = False  # whether the next decision is on the agenda
        self._decisions = 0

    # What a handler does.

    def receive(self, visit: Visit) -> None:
        """Read a request that has reached the door."""
        self._on_loop(self._machine.request_s - self._machine.answer_s, self._announce, visit)

    def _announce(self, visit: Visit) -> None:
        now_s = self._agenda.now_s
        visit.announced_s = now_s
        visit.terms = self._terms_of(visit, now_s)
        try:
            self.scheduler.check(1, visit.terms, now_s)
            self._arriving.add(visit)
            self._reserve(visit, now_s)
        except TooLarge as refusal:
            self._answer(visit, refusal.code)
        except Unavailable as refusal:
            self._answer(visit, refusal.code, refusal.retry_after_s)
        else:
            self._agenda.at(visit.terms.deadline_s, self._time_out, visit)
            self._decode(visit, now_s)

    def _terms_of(self, visit: Visit, now_s: float) -> Terms:
        ask = visit.ask
        headers = {PRIORITY: str(int(ask.priority))}
        if ask.timeout_ms is not None:
            headers[TIMEOUT] = str(ask.timeout_ms)
        promises = self._promises
        return read_terms(headers, now_s, promises.default_timeout_ms, promises.slo_ms)

    def _reserve(self, visit: Visit, now_s: float) -> None:
        count = visit.ask.items
        visit.terms = self.scheduler.terms_for(count, visit.terms)
        self.scheduler.check(count, visit.terms, now_s)
        self.scheduler.hold(visit, count, visit.terms.priority)

    def _decode(self, visit: Visit, now_s: float) -> None:
        if not self._machine.decode_s:
            self._submit(visit)
            return
        ready_s = max(
            self._decoders.take(now_s, self._machine.decode_s) for _ in range(visit.ask.items)
        )
        self._agenda.at(ready_s, self._submit, visit)

    def _submit(self, visit: Visit) -> None:
        if visit.outcome is not None:
            return
        now_s = self._agenda.now_s
        items = visit.put(now_s, partial(self._fail_soon, visit))
        self.scheduler.admit(visit, items, now_s - visit.announced_s)
        self._arriving.discard(visit)
        self._wake()

    def _answer(self, visit: Visit, outcome: str, retry_after_s: float | None = None) -> None:
        """Send an answer, once the loop has time for it."""
        visit.outcome = outcome
        self._leave(visit)
        self._on_loop(self._machine.answer_s, self._end, visit, outcome, retry_after_s)

    def _end(self, visit: Visit, outcome: str, retry_after_s: float | None) -> None:
        visit.end(outcome, self._agenda.now_s)
        self._on_end(visit, retry_after_s)

    def _time_out(self, visit: Visit) -> None:
        self._fail(visit, DeadlineExceeded.code)

    def _fail(self, visit: Visit, code: str) -> None:
        if visit.outcome is None:
            self._answer(visit, code)

    def _fail_soon(self, visit: Visit, error: RequestError) -> None:
        # The scheduler is in the middle of a decision; the handler hears of it after that.
        self._agenda.at(self._agenda.now_s, self._fail, visit, error.code)

    def _leave(self, visit: Visit) -> None:
        self.scheduler.withdraw(visit, visit.items)
        for item in visit.items:
            item.future.cancel()
        if visit in self._arriving:
            self._arriving.remove(visit)
            self._wake()

    # What the batcher does.

    def _wake(self) -> None:
        if self._computing or self._asked:
            return
        self._asked = True
        self._on_loop(0.0, self._decide, last=True)

    def _decide(self) -> None:
        self._asked = False
        self._decisions += 1
        decision = self.scheduler.next_batch(
            self._agenda.now_s, len(self._arriving), draining=False
        )
        if isinstance(decision, Batch):
            self._start(decision)
        elif decision.until_s < math.inf:
            self._agenda.at(decision.until_s, self._wake_unless_decided, self._decisions)

    def _wake_unless_decided(self, decisions: int) -> None:
        if decisions == self._decisions:
            self._wake()

    def _start(self, batch: Batch) -> None:
        now_s = self._agenda.now_s
        self._computing = True
        batch.started_s = now_s
        for item in batch.items:
            item.batch = batch
        self.scheduler.in_flight.add(batch)
        self._loop.take(now_s, self._machine.batch_s)
        seconds = self._machine.pass_s(len(batch), now_s, self._rng)
        self._agenda.at(now_s + seconds, self._on_loop, 0.0, self._finish, batch)

    def _finish(self, batch: Batch) -> None:
        now_s = self._agenda.now_s
        batch.forward_s = now_s - batch.started_s
        self.scheduler.finished(batch, now_s, succeeded=True)
        self._computing = False
        self._on_batch(batch, self.scheduler.queued)
        for item in batch.items:
            if not item.future.done():
                self._resolve(item)
        if self.scheduler.holds_full_batch(now_s):
            # Before the loop comes to answering those who were in this one.
            self._decide()
        else:
            self._wake()

    def _resolve(self, item: Item) -> None:
        item.future.set_result(None)
        visit = cast("Visit", item.request)
        visit.unanswered -= 1
        if not visit.unanswered:
            self._answer(visit, ANSWERED)

    def _on_loop(
        self, seconds: float, act: Callable[..., None], *arguments: Any, last: bool = False
    ) -> None:
        """Do something on the loop's thread, after whatever it has to do before."""
        done_s = self._loop.take(self._agenda.now_s, seconds)
        self._agenda.at(done_s, act, *arguments, last=last)

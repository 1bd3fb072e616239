"""Workers come to agree, whatever happens to them, and however many operators there are."""

from dataclasses import dataclass, field
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from batchserve.errors import RequestError
from batchserve.repository import State, operations
from batchserve.repository.follower import Operation
from batchserve.repository.reconcile import Held, advance, steps
from batchserve.repository.reports import Report, VersionReport, counted
from batchserve.repository.wanted import Base, Candidate, Phase, Wanted, plan

BASE: Base = {"m:1": None, "m:2": Candidate(version="2", share=0.1)}
SECTION = {"source": "torchvision:resnet18"}
KINDS = ["load", "load", "load", "make current", "make current", "back", "unload", "unload model"]
KINDS += ["try", "try", "try no more", "promote"]
keys = st.sampled_from(["m:1", "m:2", "m:3", "m:3", "n:1"])
which = st.integers(0, 2)
# Of a worker's turn: look, obey, finish loading, open, tell, decide.
STAGES = 6


def served(wanted: Wanted) -> set[str]:
    """Return the models that have a version which every worker has had ready."""
    return {target.name for target in plan(BASE, wanted).targets if target.settled}


@dataclass
class Worker:
    """A worker as the follower and the keeper make it, but one step at a time."""

    pid: int
    generation: int
    wanted: Wanted = field(default_factory=Wanted)
    reports: dict[int, Report] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    current: dict[str, str] = field(default_factory=dict)
    serving: bool = False
    accepting: bool = False
    answered: set[str] = field(default_factory=set)

    def report(self) -> Report:
        return Report(
            server="s",
            host="h",
            pid=self.pid,
            generation=self.generation,
            serving=self.serving,
            revision=self.wanted.revision,
            versions=tuple(
                VersionReport(key=v.key, serial=v.serial, state=v.state) for v in self.held
            ),
            current=self.current,
        )

    def obey(self) -> None:
        planned = plan(BASE, self.wanted)
        todo = steps(planned, self.held, self.current)
        self.current |= todo.make_current
        self.held = [version for version in self.held if version not in todo.unload]
        if not any(version.state is State.LOADING for version in self.held):
            first = sorted(todo.load, key=lambda target: not target.settled)[:1]
            self.held += [Held(t.key, t.serial, State.LOADING) for t in first]
        here = {version.key.partition(":")[0] for version in self.held}
        self.current = {n: v for n, v in self.current.items() if n in here}
        if self.accepting:
            self.answered |= {name for name in served(self.wanted) if self.answers(name)}

    def answers(self, name: str) -> bool:
        return self.has_ready(f"{name}:{self.current.get(name)}")

    def has_ready(self, key: str) -> bool:
        return any(version.key == key and version.state is State.READY for version in self.held)

    def finish(self, state: State) -> None:
        for place, version in enumerate(self.held):
            if version.state is State.LOADING:
                self.held[place] = Held(version.key, version.serial, state)
                return

    @property
    def has_tried_all(self) -> bool:
        over = {(v.key, v.serial) for v in self.held if v.state in (State.READY, State.FAILED)}
        planned = plan(BASE, self.wanted)
        return all((t.key, t.serial) in over for t in planned.targets if t.settled)


class Agreement(RuleBasedStateMachine):
    """Operators ask, workers look, load, fail, report, decide, are killed and forked again."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = Wanted()
        self.reports: dict[int, Report] = {}
        self.dead: list[int] = []  # whose reports are still there
        self.workers: list[Worker] = []
        self.asked: list[tuple[int, Wanted]] = []  # what operators are about to write
        self.pids = 0

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.fork(reload=False)
        self.settle()

    # What operators do: two can have read the same document before either writes.

    @rule(
        kind=st.sampled_from(KINDS),
        key=keys,
        section=st.sampled_from([None, SECTION, SECTION]),
        flag=st.booleans(),
        at_once=st.sampled_from([True, True, False]),
    )
    def ask(
        self, kind: str, key: str, section: dict[str, str] | None, flag: bool, at_once: bool
    ) -> None:
        name = key.partition(":")[0]
        operation: dict[str, Operation] = {
            "load": partial(operations.load, key=key, section=section, make_current=flag),
            "unload": partial(operations.unload, key=key),
            "unload model": partial(operations.unload_model, name=name),
            "make current": partial(operations.make_current, key=key),
            "back": partial(operations.roll_back, name=name),
            "try": partial(
                operations.set_candidate,
                name=name,
                candidate=Candidate(version=key.partition(":")[2], share=0.5, shadow=flag),
            ),
            "try no more": partial(operations.clear_candidate, name=name),
            "promote": partial(operations.promote, name=name),
        }
        try:
            self.asked.append((self.wanted.revision, operation[kind](BASE, self.wanted)))
        except RequestError:
            return
        if at_once:
            self.write(-1)

    @precondition(lambda self: self.asked)
    @rule(number=which)
    def write(self, number: int) -> None:
        revision, changed = self.asked.pop(number % len(self.asked))
        if revision == self.wanted.revision:
            self.put(changed)

    def put(self, changed: Wanted) -> None:
        self.wanted = changed
        for worker in self.workers:
            # Of a model that was unloaded, whoever does not notice may answer, but need not.
            worker.answered &= served(changed)

    # What workers do.

    @rule(turns=st.integers(1, 3), fails=st.booleans())
    def all_go_on(self, turns: int, fails: bool) -> None:
        for _ in range(turns):
            for worker in list(self.workers):
                self.turn(worker, STAGES, fails=fails)

    @precondition(lambda self: self.workers)
    @rule(number=which, stages=st.integers(1, STAGES), fails=st.booleans())
    def one_goes_on(self, number: int, stages: int, fails: bool) -> None:
        """Let a worker do the first stages of its turn, so that what it knows grows old."""
        self.turn(self.workers[number % len(self.workers)], stages, fails=fails)

    def turn(self, worker: Worker, stages: int, *, fails: bool) -> None:
        finish = partial(self.finish, fails=fails)
        every = (self.look, self.obey, finish, self.open, self.tell, self.decide)
        for stage in every[:stages]:
            if worker in self.workers:
                stage(worker)

    def look(self, worker: Worker) -> None:
        worker.wanted, worker.reports = self.wanted, dict(self.reports)

    def obey(self, worker: Worker) -> None:
        worker.obey()

    def finish(self, worker: Worker, fails: bool) -> None:
        loading = next((v for v in worker.held if v.state is State.LOADING), None)
        if loading is not None:
            change = self.wanted.changes.get(loading.key)
            unsettled = (
                change is not None
                and change.phase is Phase.LOADING
                and change.serial == loading.serial
            )
            worker.finish(State.FAILED if fails and unsettled else State.READY)

    def open(self, worker: Worker) -> None:
        """Join, have what was decided until then, and only then accept connections."""
        if not worker.has_tried_all or worker not in self.workers:
            return
        settled = {(t.key, t.serial) for t in plan(BASE, worker.wanted).targets if t.settled}
        if any(v.state is State.FAILED and (v.key, v.serial) in settled for v in worker.held):
            self.end(worker)
        elif worker.serving:
            worker.accepting = True
            worker.obey()
        elif worker.wanted == self.wanted:
            worker.serving = True
            self.tell(worker)
            self.put(self.wanted.next())
            worker.wanted = self.wanted

    def tell(self, worker: Worker) -> None:
        self.reports[worker.pid] = worker.report()

    def decide(self, worker: Worker) -> None:
        # The report that it has written last.
        reports = {**worker.reports, worker.pid: self.reports[worker.pid]}
        if reports[worker.pid] not in counted(reports.values()):
            return
        decided = advance(BASE, worker.wanted, reports.values())
        if decided is not None and decided.revision == self.wanted.revision + 1:
            self.check_decision(self.wanted, decided)
            self.put(decided)
            worker.wanted = decided

    # What happens to them.

    @precondition(lambda self: len(self.workers) > 1)
    @rule(number=which, noticed=st.booleans())
    def kill(self, number: int, noticed: bool) -> None:
        self.expire()
        self.end(self.workers[number % len(self.workers)])
        if noticed:
            self.expire()

    def end(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.dead.append(worker.pid)

    def expire(self) -> None:
        for pid in self.dead:
            self.reports.pop(pid, None)
        self.dead.clear()

    @precondition(lambda self: len(self.workers) < 3)
    @rule(reload=st.booleans())
    def fork(self, reload: bool) -> None:
        newest = max((worker.generation for worker in self.workers), default=0)
        self.pids += 1
        self.workers.append(Worker(self.pids, newest + reload))

    # What must hold.

    def check_decision(self, before: Wanted, after: Wanted) -> None:
        """Workers decide nothing that no operator has asked for."""
        then, now = plan(BASE, before), plan(BASE, after)
        settled = {(target.key, target.serial) for target in then.targets if target.settled}
        left = {(target.key, target.serial) for target in now.targets}
        replaced = {target.key for target in now.targets if target.settled}
        assert all(gone[0] in replaced for gone in settled - left)
        for name, version in then.current.items():
            upcoming = before.upcoming.get(name)
            if name not in now.current:
                assert not any(key.startswith(f"{name}:") for key, _ in settled)
            elif now.current[name] != version and upcoming is not None:
                assert now.current[name] == upcoming.version or version not in now.versions(name)
        newest = max((w.generation for w in self.workers if w.serving), default=0)
        for name, version in after.current.items():
            if before.current.get(name) != version:
                for worker in self.workers:
                    if worker.serving and worker.generation == newest:
                        assert worker.has_ready(f"{name}:{version}")

    @invariant()
    def who_was_answered_is_answered(self) -> None:
        for worker in self.workers:
            if worker.accepting:
                for name in worker.answered:
                    assert worker.answers(name), (worker, name)

    @invariant()
    def a_candidate_is_there_and_not_current(self) -> None:
        planned = plan(BASE, self.wanted)
        assert planned.ignored == ()
        for name, candidate in planned.candidates.items():
            assert candidate.version in planned.versions(name)
        for name, found in self.wanted.candidates.items():
            assert found is None or found.version != planned.current[name]

    def settle(self) -> None:
        """Let everybody do everything until nothing happens any more."""
        self.expire()
        self.asked.clear()
        for _ in range(200):
            if not self.workers:
                self.fork(reload=False)
            before = (self.wanted, dict(self.reports))
            for worker in list(self.workers):
                self.turn(worker, STAGES, fails=False)
                self.who_was_answered_is_answered()
            if before == (self.wanted, self.reports):
                break
        else:
            raise AssertionError("they do not come to an end")
        newest = max((worker.generation for worker in self.workers), default=0)
        # Gunicorn ends what a reload has replaced.
        for worker in [worker for worker in self.workers if worker.generation < newest]:
            self.end(worker)
        self.expire()

    def teardown(self) -> None:
        self.settle()
        planned = plan(BASE, self.wanted)
        assert not self.wanted.upcoming
        assert all(target.settled for target in planned.targets)
        wanted = {(target.key, target.serial) for target in planned.targets}
        for worker in self.workers:
            assert worker.accepting
            assert worker.current == planned.current
            assert {(version.key, version.serial) for version in worker.held} == wanted


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

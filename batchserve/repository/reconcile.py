"""How all workers come to agree, as pure functions.

`advance` is what they decide together: any of them may, whoever writes the next document first, so
that none of them matters. `steps` is what one of them has to do by itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from batchserve.repository.reports import Report, counted
from batchserve.repository.version import State
from batchserve.repository.wanted import (
    FAILURES,
    HISTORY,
    Base,
    Change,
    Failure,
    Phase,
    Plan,
    Target,
    Upcoming,
    Wanted,
    plan,
    without_candidate,
)

V = TypeVar("V")


def advance(base: Base, wanted: Wanted, reports: Iterable[Report]) -> Wanted | None:
    """Return the next document, if what the workers report allows for one.

    - A version that has failed in one worker is taken back everywhere.
    - One that all workers have ready is loaded, and becomes current if it is to.

    Args:
        base: what the config file has.
        wanted: the document.
        reports: of all workers that live, also those that are starting.
    """
    everybody = list(reports)
    deciding = counted(everybody)
    if not deciding:
        return None
    planned = plan(base, wanted)
    loaded = _after_loading(planned, wanted, everybody, deciding)
    return next(chain(loaded, _after_waiting(base, wanted, deciding)), None)


def _after_loading(
    planned: Plan, wanted: Wanted, everybody: Sequence[Report], deciding: Sequence[Report]
) -> Iterator[Wanted]:
    for key, change in wanted.changes.items():
        if change.phase is not Phase.LOADING:
            continue
        target = _latest(planned, key)
        if target is None or target.settled:
            yield _taken_back(wanted, key, change, "the config file has it no more")
        elif (reason := _failure(target, everybody)) is not None:
            yield _taken_back(wanted, key, change, reason)
        elif _ready_everywhere(target, deciding):
            yield _settled(wanted, key, change)


def _after_waiting(base: Base, wanted: Wanted, deciding: Sequence[Report]) -> Iterator[Wanted]:
    planned = plan(base, wanted)
    for name, upcoming in wanted.upcoming.items():
        target = _latest(planned, f"{name}:{upcoming.version}")
        if target is None or (target.settled and _failure(target, deciding) is not None):
            yield wanted.next(upcoming=_without(wanted.upcoming, name))
        elif target.settled and _ready_everywhere(target, deciding):
            flipped = _flipped(wanted, name, planned.current[name], upcoming)
            candidate = planned.candidates.get(name)
            if candidate is not None and candidate.version == upcoming.version:
                candidates = without_candidate(base, wanted, name)
                flipped = flipped.model_copy(update={"candidates": candidates})
            yield flipped


def _failure(target: Target, reports: Iterable[Report]) -> str | None:
    for report in reports:
        found = report.version_report(target.key, target.serial)
        if found is not None and found.state is State.FAILED:
            return f"{found.error} (worker {report.pid} on {report.host})"
    return None


def _ready_everywhere(target: Target, deciding: Iterable[Report]) -> bool:
    return all(report.state_of(target) is State.READY for report in deciding)


def _latest(planned: Plan, key: str) -> Target | None:
    return next((target for target in reversed(planned.targets) if target.key == key), None)


def _taken_back(wanted: Wanted, key: str, change: Change, reason: str) -> Wanted:
    changes = _without(wanted.changes, key)
    if change.before is not None:
        changes[key] = change.before
    name, _, version = key.partition(":")
    upcoming = wanted.upcoming
    if name in upcoming and upcoming[name].version == version:
        upcoming = _without(upcoming, name)
    failure = Failure(key=key, serial=change.serial, reason=reason)
    return wanted.next(
        changes=changes, upcoming=upcoming, failures=(*wanted.failures, failure)[-FAILURES:]
    )


def _settled(wanted: Wanted, key: str, change: Change) -> Wanted:
    settled = change.model_copy(update={"phase": Phase.LOADED, "before": None})
    return wanted.next(changes={**wanted.changes, key: settled})


def _flipped(wanted: Wanted, name: str, before: str, upcoming: Upcoming) -> Wanted:
    history = list(wanted.history.get(name, ()))
    if upcoming.back:
        while history and history.pop() != upcoming.version:
            pass
    elif before != upcoming.version:
        history = [*history, before][-HISTORY:]
    return wanted.next(
        current={**wanted.current, name: upcoming.version},
        upcoming=_without(wanted.upcoming, name),
        history={**wanted.history, name: tuple(history)},
    )


def _without(mapping: dict[str, V], key: str) -> dict[str, V]:
    return {other: value for other, value in mapping.items() if other != key}


@dataclass(frozen=True)
class Held:
    """A version that a worker has, in whatever state."""

    key: str
    serial: int
    state: State


@dataclass(frozen=True)
class Steps:
    """What a worker has to do, in this order; loading takes its time.

    Attributes:
        make_current: the version, of each model where it is another one.
        unload: key and number of what nobody wants any more.
        load: what is missing.
    """

    make_current: dict[str, str]
    unload: tuple[Held, ...]
    load: tuple[Target, ...]


def steps(planned: Plan, held: Sequence[Held], current: dict[str, str]) -> Steps:
    """Return what brings a worker in line with the plan.

    Args:
        planned: what every worker shall have.
        held: what this one has.
        current: the version that it answers with, of each model of which it has one.
    """
    ready = {version.key for version in held if version.state is State.READY}
    make_current = {
        name: version
        for name, version in planned.current.items()
        if current.get(name) != version
        and (f"{name}:{version}" in ready or not _answers(name, current, ready))
    }
    answering = {**current, **make_current}
    wanted = {(target.key, target.serial) for target in planned.targets}
    present = {(version.key, version.serial) for version in held}
    return Steps(
        make_current,
        unload=tuple(
            version
            for version in held
            if (version.key, version.serial) not in wanted
            and not _is_needed(version, planned, held, answering)
        ),
        load=tuple(
            target for target in planned.targets if (target.key, target.serial) not in present
        ),
    )


def _answers(name: str, current: dict[str, str], ready: set[str]) -> bool:
    return name in current and f"{name}:{current[name]}" in ready


def _is_needed(
    version: Held, planned: Plan, held: Sequence[Held], answering: dict[str, str]
) -> bool:
    """Whether it answers until what takes its place is ready here, too."""
    name, _, number = version.key.partition(":")
    if name not in planned.current or version.state is not State.READY:
        return False
    if answering.get(name) != number:
        return False
    successor = f"{name}:{planned.current[name]}"
    wanted = {(target.key, target.serial) for target in planned.targets}
    return not any(
        other.key == successor
        and other.state in (State.READY, State.FAILED)
        and (other.key, other.serial) in wanted
        for other in held
    )

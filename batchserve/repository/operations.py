"""What an operator can ask for, as functions from one document to the next. Pure.

Each takes what the config file has (`base`), and raises `NotFound` or `Conflict` where
it makes no sense.
"""

from collections.abc import Sequence
from typing import Any

from batchserve.errors import Conflict, NotFound
from batchserve.repository.wanted import (
    Base,
    Candidate,
    Change,
    Phase,
    Plan,
    Upcoming,
    Wanted,
    plan,
    without_candidate,
)


def load(
    base: Base,
    wanted: Wanted,
    key: str,
    section: dict[str, Any] | None,
    *,
    make_current: bool,
) -> Wanted:
    """Load a version: a new one, one that was unloaded, or one that is there once more.

    Args:
        base: of the config file.
        wanted: the document.
        key: name and version.
        section: as in the config file; None: as the version had it last.
        make_current: as soon as it is ready everywhere; the only version of a model always is.
    """
    before = wanted.changes.get(key)
    if before is not None and before.phase is Phase.LOADING:
        raise Conflict(f"{key} is being loaded already; wait for it, or unload it first")
    if section is None:
        section = _last_section(base, wanted, key)
    change = Change(phase=Phase.LOADING, serial=wanted.revision + 1, section=section, before=before)
    name, _, version = key.partition(":")
    upcoming = wanted.upcoming
    if make_current or not plan(base, wanted).versions(name):
        upcoming = {**upcoming, name: Upcoming(version=version)}
    return _forgotten(wanted, [key]).next(
        changes={**wanted.changes, key: change}, upcoming=upcoming
    )


def unload(base: Base, wanted: Wanted, key: str) -> Wanted:
    """Take a version out; of a current one, only if the model has no other.

    A version that has failed is forgotten.
    """
    planned = plan(base, wanted)
    name, _, version = key.partition(":")
    versions = planned.versions(name)
    if version not in versions:
        if any(failure.key == key for failure in wanted.failures):
            return _forgotten(wanted, [key]).next()
        raise _unknown(planned, name, version)
    if planned.current[name] == version and len(versions) > 1:
        others = ", ".join(other for other in versions if other != version)
        raise Conflict(
            f"{key} is current, and requests would have no answer; make another version of it "
            f"current first: {others}"
        )
    return _taken_out(base, wanted, [key]).next()


def unload_model(base: Base, wanted: Wanted, name: str) -> Wanted:
    """Take a model out, with all its versions."""
    planned = plan(base, wanted)
    keys = [f"{name}:{version}" for version in planned.versions(name)]
    if not keys:
        raise _unknown(planned, name, None)
    return _taken_out(base, wanted, keys).next()


def make_current(base: Base, wanted: Wanted, key: str) -> Wanted:
    """Have a version answer where none is named, once every worker has it ready."""
    planned = plan(base, wanted)
    name, _, version = key.partition(":")
    if version not in planned.versions(name):
        raise _unknown(planned, name, version)
    return wanted.next(upcoming={**wanted.upcoming, name: Upcoming(version=version)})


def roll_back(base: Base, wanted: Wanted, name: str) -> Wanted:
    """Go back to the version that was current before."""
    planned = plan(base, wanted)
    versions = planned.versions(name)
    if not versions:
        raise _unknown(planned, name, None)
    past = [version for version in wanted.history.get(name, ()) if version in versions]
    if not past:
        raise Conflict(
            f"model {name!r} has no earlier version to go back to: {planned.current[name]} is the "
            f"first that was current, or those before it have been unloaded"
        )
    return wanted.next(upcoming={**wanted.upcoming, name: Upcoming(version=past[-1], back=True)})


def set_candidate(base: Base, wanted: Wanted, name: str, candidate: Candidate) -> Wanted:
    """Try a version beside the current one, in place of any other that was tried."""
    planned = plan(base, wanted)
    version, key = candidate.version, f"{name}:{candidate.version}"
    if version not in planned.versions(name):
        raise _unknown(planned, name, version)
    if planned.current[name] == version:
        raise Conflict(f"{key} is current; a candidate is tried beside the current version")
    if not any(target.key == key and target.settled for target in planned.targets):
        raise Conflict(f"{key} is still being loaded; wait until every worker has it ready")
    return wanted.next(candidates={**wanted.candidates, name: candidate})


def clear_candidate(base: Base, wanted: Wanted, name: str) -> Wanted:
    """Have the current version answer all requests that name none."""
    _candidate(plan(base, wanted), name)
    return wanted.next(candidates=without_candidate(base, wanted, name))


def promote(base: Base, wanted: Wanted, name: str) -> Wanted:
    """Make a model's candidate current, which ends the trial."""
    candidate = _candidate(plan(base, wanted), name)
    return make_current(base, wanted, f"{name}:{candidate.version}")


def _last_section(base: Base, wanted: Wanted, key: str) -> dict[str, Any] | None:
    change = wanted.changes.get(key)
    if change is not None and change.section is not None:
        return change.section
    if key not in base:
        name, _, version = key.partition(":")
        raise NotFound(
            f"the config file has no version {version!r} of {name!r}; send its section as the "
            f'body, as in {{"source": "torchvision:resnet18"}}'
        )
    return None


def _taken_out(base: Base, wanted: Wanted, keys: Sequence[str]) -> Wanted:
    changes = {key: change for key, change in wanted.changes.items() if key not in keys}
    for key in keys:
        if key in base:
            change = wanted.changes.get(key)
            section = change.section if change is not None else None
            changes[key] = Change(phase=Phase.UNLOADED, section=section)
    for name, candidate in plan(base, wanted).candidates.items():
        if f"{name}:{candidate.version}" in keys:
            update = {"candidates": without_candidate(base, wanted, name)}
            wanted = wanted.model_copy(update=update)
    return _forgotten(wanted, keys).model_copy(
        update={
            "changes": changes,
            "current": {n: v for n, v in wanted.current.items() if f"{n}:{v}" not in keys},
            "upcoming": {
                n: soon for n, soon in wanted.upcoming.items() if f"{n}:{soon.version}" not in keys
            },
            "history": {
                n: tuple(v for v in past if f"{n}:{v}" not in keys)
                for n, past in wanted.history.items()
            },
        }
    )


def _forgotten(wanted: Wanted, keys: Sequence[str]) -> Wanted:
    failures = tuple(failure for failure in wanted.failures if failure.key not in keys)
    return wanted.model_copy(update={"failures": failures})


def _candidate(planned: Plan, name: str) -> Candidate:
    if name in planned.candidates:
        return planned.candidates[name]
    if not planned.versions(name):
        raise _unknown(planned, name, None)
    raise Conflict(f"model {name!r} has no candidate; PUT /admin/models/{name}/candidate names one")


def _unknown(planned: Plan, name: str, version: str | None) -> NotFound:
    versions = planned.versions(name)
    if not versions:
        names = ", ".join(planned.current) or "none"
        return NotFound(f"there is no model {name!r}; served are {names}")
    return NotFound(f"model {name!r} has no version {version!r}; it has {', '.join(versions)}")

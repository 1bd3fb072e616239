"""What shall be served: the config file, and what was changed since, as one document.

All workers read it and bring themselves in line with it; `reconcile.py` has the rules.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from batchserve.config import ModelConfig

# Versions to go back to, and failures to tell of.
HISTORY, FAILURES = 10, 20


class Document(BaseModel):
    """Frozen; fields that a later release may add are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Phase(StrEnum):
    """How far a change has come in all workers together."""

    LOADING = "loading"  # not everywhere yet; if it fails anywhere, it is taken back
    LOADED = "loaded"
    UNLOADED = "unloaded"


class Change(Document):
    """One version, otherwise than the config file has it.

    Attributes:
        serial: of this loading, never used again; 0 is what the config file has.
        section: the version's section as in the config file; None: that of the config file.
        before: what holds again if loading fails; None: what the config file has, if anything.
    """

    phase: Phase
    serial: int = 0
    section: dict[str, Any] | None = None
    before: Self | None = None


class Upcoming(Document):
    """A version that becomes current as soon as every worker has it ready.

    Attributes:
        back: by going back in the history.
    """

    version: str
    back: bool = False


class Candidate(Document):
    """A version that is tried beside the current one.

    Attributes:
        share: of the requests that name no version, from 0 to 1, it answers.
        shadow: it gets copies of what the current one has answered, and nobody sees its answers.
    """

    version: str
    share: float = 0.0
    shadow: bool = False

    def __str__(self) -> str:
        copies = " and copies of them" if self.shadow else ""
        return f"{self.version}, with {self.share:.4g} of the requests{copies}"


# What the config file has: the versions' keys in its order, with those that are candidates there.
Base = Mapping[str, Candidate | None]


def base_of(configs: Iterable[ModelConfig]) -> Base:
    """Return what the document changes, out of the config file."""
    return {
        config.key: Candidate(version=config.version, **config.candidate.model_dump())
        if config.candidate
        else None
        for config in configs
    }


class Failure(Document):
    """A version that some worker could not load, so that it was taken back."""

    key: str
    serial: int
    reason: str


class Wanted(Document):
    """The changes to what the config file has; keys are `name:version`, or a model's name.

    Attributes:
        revision: of this document.
        current: the version of each model that answers where none is named; where it is missing,
            the first one.
        upcoming: what becomes current.
        history: what was current before, the latest last.
        candidates: of each model where it is not as in the config file; None: it has none.
        failures: the last ones.
    """

    revision: int = 0
    changes: dict[str, Change] = {}
    current: dict[str, str] = {}
    upcoming: dict[str, Upcoming] = {}
    history: dict[str, tuple[str, ...]] = {}
    candidates: dict[str, Candidate | None] = {}
    failures: tuple[Failure, ...] = ()

    def next(self, **changed: Any) -> "Wanted":
        """Return the next revision, with these fields changed."""
        return self.model_copy(update={**changed, "revision": self.revision + 1})


@dataclass(frozen=True)
class Target:
    """A version that every worker shall have.

    Attributes:
        section: its section as it was given over HTTP; None: as the config file has it.
        settled: every worker has had it ready.
    """

    key: str
    serial: int = 0
    section: dict[str, Any] | None = None
    settled: bool = True

    @property
    def name(self) -> str:
        return self.key.partition(":")[0]

    @property
    def version(self) -> str:
        return self.key.partition(":")[2]


@dataclass(frozen=True)
class Plan:
    """What the config file and the document come to.

    Attributes:
        targets: in the order of the config file, and then of their loading.
        current: of each model that has a target.
        candidates: of each model that has one.
        ignored: what the document says and makes no sense any more, in words.
    """

    targets: tuple[Target, ...]
    current: dict[str, str]
    candidates: dict[str, Candidate]
    ignored: tuple[str, ...] = ()

    def versions(self, name: str) -> list[str]:
        """Return the versions of one model, each once, in order."""
        return list(dict.fromkeys(t.version for t in self.targets if t.name == name))


def plan(base: Base, wanted: Wanted) -> Plan:
    """Return what to serve.

    Args:
        base: what the config file has.
        wanted: the changes.
    """
    targets: list[Target] = []
    ignored: list[str] = []
    for key in dict.fromkeys([*base, *wanted.changes]):
        change = wanted.changes.get(key)
        if change is None:
            targets.append(Target(key))
        elif key not in base and (stale := _without_base(change)):
            ignored.append(f"{key} is not in the config file any more, and so cannot be {stale}")
        else:
            targets += _targets_of(key, change, in_base=key in base)
    versions: dict[str, list[str]] = {}
    for target in targets:
        versions.setdefault(target.name, []).append(target.version)
    for name, version in wanted.current.items():
        if name in versions and version not in versions[name]:
            ignored.append(f"{name}:{version} is gone, and so cannot be current")
    current = {
        name: wanted.current[name] if wanted.current.get(name) in known else known[0]
        for name, known in versions.items()
    }
    candidates = {}
    for name, candidate in _candidates(base, wanted).items():
        if candidate.version not in versions.get(name, ()):
            ignored.append(f"{name}:{candidate.version} is gone, and so cannot be a candidate")
        # What answers all requests is tried no more.
        elif candidate.version != current[name]:
            candidates[name] = candidate
    return Plan(tuple(targets), current, candidates, tuple(ignored))


def without_candidate(base: Base, wanted: Wanted, name: str) -> dict[str, Candidate | None]:
    """Return what the document has to say of candidates so that a model has none."""
    others = {model: found for model, found in wanted.candidates.items() if model != name}
    return {**others, name: None} if name in _candidates_of_base(base) else others


def in_words(wanted: Wanted) -> list[str]:
    """Return what is otherwise than in the config file, for the log."""
    words = {
        Phase.LOADING: "is being loaded",
        Phase.LOADED: "was loaded",
        Phase.UNLOADED: "was unloaded",
    }
    versions = [f"{key} {words[change.phase]}" for key, change in wanted.changes.items()]
    current = [f"{name}:{version} is current" for name, version in wanted.current.items()]
    upcoming = [f"{name}:{soon.version} becomes current" for name, soon in wanted.upcoming.items()]
    candidates = [
        f"{name} has no candidate" if candidate is None else f"{name} has the candidate {candidate}"
        for name, candidate in wanted.candidates.items()
    ]
    return [*versions, *current, *upcoming, *candidates]


def _candidates(base: Base, wanted: Wanted) -> dict[str, Candidate]:
    found = {**_candidates_of_base(base), **wanted.candidates}
    return {name: candidate for name, candidate in found.items() if candidate is not None}


def _candidates_of_base(base: Base) -> dict[str, Candidate]:
    return {key.partition(":")[0]: tried for key, tried in base.items() if tried is not None}


def _without_base(change: Change) -> str:
    if change.phase is Phase.UNLOADED:
        return "unloaded"
    return "loaded again" if change.section is None else ""


def _targets_of(key: str, change: Change, *, in_base: bool) -> list[Target]:
    if change.phase is Phase.UNLOADED:
        return []
    target = Target(key, change.serial, change.section, settled=change.phase is Phase.LOADED)
    if target.settled:
        return [target]
    # What it replaces serves on until it is ready.
    if change.before is not None:
        return [*_targets_of(key, change.before, in_base=in_base), target]
    return [Target(key), target] if in_base else [target]

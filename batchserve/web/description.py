"""What is told of models and their versions, as JSON."""

from collections.abc import Iterable
from typing import Any

from batchserve.errors import NotFound
from batchserve.history import Reading
from batchserve.repository.follower import Follower
from batchserve.repository.reports import Report
from batchserve.repository.repository import ModelRepository
from batchserve.repository.version import ModelVersion, Progress, State
from batchserve.tasks.kinds import input_of
from batchserve.trial_record import trial_record
from batchserve.web.body import media_types_of
from batchserve.web.formats import formats_for, names_of


def describe(version: ModelVersion) -> dict[str, Any]:
    """Return the state and the settings of a version, in this worker."""
    config = version.config
    described: dict[str, Any] = {
        "name": version.name,
        "version": version.version,
        "state": version.state,
        "task": config.task,
        "precision": config.precision,
        "batching": config.batching.model_dump(),
    }
    if version.progress is not None:
        described["progress"] = _progress(version.progress)
    if version.error is not None:
        described["error"] = version.error
    if version.loaded:
        described["input"] = input_of(version.task)
        described["takes"] = list(media_types_of(version.task))
        described["gives"] = list(names_of(formats_for(version.task)))
        described["device"] = version.device
        described["max_batch_size"] = version.max_batch_size
        described["runner"] = version.batcher.runner.name
        described["forward_ms"] = {
            str(size): round(1000 * seconds, 3) for size, seconds in version.forward_s.items()
        }
    return described


def describe_all(
    repository: ModelRepository, follower: Follower | None = None, name: str | None = None
) -> list[dict[str, Any]]:
    """Return every version, that of one model only if it is named.

    Where there is a follower, each has what every worker says of it, and those that were taken back
    because they had failed are there, too.

    Raises:
        NotFound: there is no such model.
    """
    versions = [found for found in repository.versions if name in (None, found.name)]
    described = [
        {**describe(found), "current": found.version == repository.current(found.name)}
        for found in versions
    ]
    for shown, version in zip(described, versions, strict=True):
        candidate = repository.candidates.get(version.name)
        if candidate is not None and candidate.version == version.version:
            shown["candidate"] = candidate.model_dump(exclude={"version"})
    if follower is not None:
        for shown, version in zip(described, versions, strict=True):
            shown["workers"] = _workers(version, follower.reports.values())
        described += _taken_back(follower, name)
    if name is not None and not described:
        names = ", ".join(repository.currents) or "none"
        raise NotFound(f"there is no model {name!r}; served are {names}")
    return described


def describe_model(
    repository: ModelRepository,
    name: str,
    follower: Follower | None = None,
    readings: Iterable[Reading] = (),
) -> dict[str, Any]:
    """Return one model: its versions, which was, is and becomes current, and what is tried.

    Args:
        repository: this worker's.
        name: of the model.
        follower: who knows what the other workers have; None: there is no administration.
        readings: of the metrics, if the model has a candidate.

    Raises:
        NotFound: there is no such model.
    """
    versions = describe_all(repository, follower, name)
    current, candidate = repository.current(name), repository.candidates.get(name)
    described: dict[str, Any] = {
        "name": name,
        "current": current,
        "candidate": None,
        "versions": versions,
    }
    if candidate is not None and current is not None:
        record = trial_record(readings, name, current, candidate.version)
        described["candidate"] = {**candidate.model_dump(), **record}
    if follower is not None:
        upcoming = follower.wanted.upcoming.get(name)
        described["upcoming"] = upcoming.version if upcoming else None
        described["earlier"] = list(follower.wanted.history.get(name, ()))
    return described


def _taken_back(follower: Follower, name: str | None) -> list[dict[str, Any]]:
    split = [(*failure.key.partition(":")[::2], failure) for failure in follower.wanted.failures]
    return [
        {
            "name": model,
            "version": version,
            "state": State.FAILED,
            "error": failure.reason,
            "current": False,
        }
        for model, version, failure in split
        if name in (None, model)
    ]


def _workers(version: ModelVersion, reports: Any) -> list[dict[str, Any]]:
    return [
        {"host": report.host, "pid": report.pid, **_of_worker(version, report)}
        for report in sorted(reports, key=lambda report: (report.host, report.pid))
    ]


def _of_worker(version: ModelVersion, report: Report) -> dict[str, Any]:
    found = report.version_report(version.key, version.serial)
    if found is None:
        return {"state": "absent"}
    shown: dict[str, Any] = {
        "state": found.state,
        "current": report.current.get(version.name) == version.version,
    }
    if found.progress is not None:
        shown["progress"] = _progress(found.progress)
    if found.error is not None:
        shown["error"] = found.error
    return shown


def _progress(progress: Progress) -> dict[str, Any]:
    return {"stage": progress.stage, "done": progress.done, "of": progress.of}

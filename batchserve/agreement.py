"""Whether all workers agree on a change, and what has come of it, by what they report."""

from dataclasses import dataclass
from typing import Any

from batchserve.errors import Conflict, LoadFailed
from batchserve.repository import State
from batchserve.repository.follower import Follower
from batchserve.repository.reports import Report
from batchserve.repository.wanted import Phase


@dataclass(frozen=True)
class Outcome:
    """What has come of a change.

    Attributes:
        done: in all workers; otherwise it goes on.
        name: of the model.
        version: that was changed; None: all of them.
        current: the version that answers where none is named; None: the model is gone.
        upcoming: the one that becomes current when it is ready.
        candidate: what is tried beside the current version, and how; None: nothing is.
        workers: what each has to say of the model.
    """

    done: bool
    name: str
    version: str | None
    current: str | None
    upcoming: str | None
    candidate: dict[str, Any] | None
    workers: list[dict[str, Any]]


class Agreement:
    """Asks the reports that one worker has read of all of those that serve.

    Args:
        follower: of that worker.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def is_loaded(self, key: str, serial: int, *, current: bool) -> bool:
        """Whether a version is settled, and current if it is to be, in all workers.

        Args:
            key: of the version.
            serial: of the change that asked for it.
            current: whether it is to become so.

        Raises:
            LoadFailed: it failed in a worker, and was taken back in all.
            Conflict: something else was asked for meanwhile.
        """
        wanted = self._follower.wanted
        for failure in wanted.failures:
            if (failure.key, failure.serial) == (key, serial):
                raise LoadFailed(f"{key} could not be loaded, and is taken back: {failure.reason}")
        change = wanted.changes.get(key)
        if change is None or change.serial != serial:
            raise Conflict(f"{key} was unloaded, or loaded once more, while it was being loaded")
        if change.phase is not Phase.LOADED:
            return False
        name, _, version = key.partition(":")
        return self.is_current(name, version) if current else True

    def is_current(self, name: str, version: str) -> bool:
        """Whether a version answers in all workers where none is named.

        Raises:
            Conflict: it failed in a worker, or something else was asked for meanwhile.
        """
        wanted, deciding = self._follower.wanted, self._follower.deciding
        upcoming = wanted.upcoming.get(name)
        if upcoming is not None and upcoming.version == version:
            return False
        if upcoming is not None or self._follower.plan.current.get(name) != version:
            raise Conflict(
                self.unready(name, version)
                or f"{name}:{version} is not current: another change came in between"
            )
        return all(
            report.revision >= wanted.revision and report.current.get(name) == version
            for report in deciding
        )

    def unready(self, name: str, version: str) -> str:
        """Return in which worker a version has failed, and why; nothing if in none."""
        failed = [
            f"{held.error} (worker {report.pid} on {report.host})"
            for report in self._follower.deciding
            for held in report.versions
            if held.key == f"{name}:{version}" and held.state is State.FAILED
        ]
        return f"{name}:{version} is not ready: {failed[0]}" if failed else ""

    def have_read(self, revision: int) -> bool:
        """Whether all workers obey a revision of the document."""
        return all(report.revision >= revision for report in self._follower.deciding)

    def is_gone(self, name: str, version: str | None, revision: int) -> bool:
        """Whether no worker has anything left of what was loaded before a revision."""

        def is_left(report: Report) -> bool:
            earlier = (held.key for held in report.versions if held.serial < revision)
            split = (key.partition(":")[::2] for key in earlier)
            return any(n == name and version in (None, v) for n, v in split)

        return all(
            report.revision >= revision and not is_left(report)
            for report in self._follower.deciding
        )

    def outcome(self, name: str, version: str | None, *, done: bool) -> Outcome:
        """Return what has come of a change of a version; None: of all of a model's."""
        follower = self._follower
        upcoming = follower.wanted.upcoming.get(name)
        candidate = follower.plan.candidates.get(name)
        return Outcome(
            done=done,
            name=name,
            version=version,
            current=follower.plan.current.get(name),
            upcoming=upcoming.version if upcoming else None,
            candidate=candidate.model_dump() if candidate else None,
            workers=[
                {"host": report.host, "pid": report.pid, "versions": _versions(report, name)}
                for report in sorted(follower.deciding, key=lambda report: report.pid)
            ],
        )


def _versions(report: Report, name: str) -> dict[str, str]:
    return {
        held.key.partition(":")[2]: str(held.state)
        for held in report.versions
        if held.key.startswith(f"{name}:")
    }

"""What each worker tells of itself, and which workers decide."""

from collections.abc import Iterable

from batchserve.repository.version import Progress, State
from batchserve.repository.wanted import Document, Target


class VersionReport(Document):
    """What one worker has of a version.

    Attributes:
        progress: of one that is not ready yet.
        error: why it has failed.
    """

    key: str
    serial: int
    state: State
    progress: Progress | None = None
    error: str | None = None


class Report(Document):
    """What one worker tells.

    Attributes:
        server: names the Gunicorn master that the worker belongs to.
        generation: counts the reloads of that server.
        serving: it answers requests; otherwise it is starting.
        revision: of the document that it has last read.
        current: the version of each model that it answers with where none is named.
    """

    server: str
    host: str
    pid: int
    generation: int
    serving: bool
    revision: int
    versions: tuple[VersionReport, ...] = ()
    current: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it

    def state_of(self, target: Target) -> State | None:
        """Return the state of what was loaded for a target; None: nothing was yet."""
        found = self.version_report(target.key, target.serial)
        return found.state if found else None

    def version_report(self, key: str, serial: int) -> VersionReport | None:
        """Return what it tells of a version that was loaded under that number."""
        found = (held for held in self.versions if (held.key, held.serial) == (key, serial))
        return next(found, None)


def counted(reports: Iterable[Report]) -> list[Report]:
    """Return those that decide together: all that serve, except for what a reload is replacing."""
    serving = [report for report in reports if report.serving]
    newest: dict[str, int] = {}
    for report in serving:
        newest[report.server] = max(report.generation, newest.get(report.server, 0))
    return [report for report in serving if report.generation == newest[report.server]]

"""The one place where an operator changes what is served, whatever protocol it was asked in.

Each change is made for all workers, waited for, and logged with who asked for it.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from batchserve.config import Config
from batchserve.errors import Conflict, LoadFailed, RequestError
from batchserve.permission import permitted
from batchserve.repository import State, operations
from batchserve.repository.follower import Follower, Operation
from batchserve.repository.reports import Report
from batchserve.repository.wanted import Base, Candidate, Phase, Wanted

logger = logging.getLogger(__name__)

# How long a change is waited for, unless the operator says otherwise.
TIMEOUT_S = 600.0
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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


class Administration:
    """Changes what all workers serve.

    Each method takes who asked (`by`, for the log) and how long to wait. It returns when all
    workers that serve agree, or with `done=False` when the time is over; the change goes on then.

    Args:
        config: tells what may be loaded.
        follower: this worker's.
    """

    def __init__(self, config: Config, follower: Follower) -> None:
        self._config = config
        self._follower = follower

    async def load(
        self,
        name: str,
        version: str,
        section: Mapping[str, Any] | None = None,
        *,
        make_current: bool = False,
        by: str,
        timeout_s: float = TIMEOUT_S,
    ) -> Outcome:
        """Load a version in all workers, beside what serves.

        One that is there already is loaded once more, and replaced when the new one is ready.

        Args:
            name: of the model, which may be a new one.
            version: of the model, likewise.
            section: as in the config file; None: as it was loaded last, or as the file has it.
            make_current: as soon as it is ready everywhere; the first version of a model always is.
            by: who asked.
            timeout_s: to wait for.

        Raises:
            LoadFailed: it failed in a worker, and was taken back in all.
            Conflict: it is being loaded already, or was unloaded meanwhile.
            NotFound: nobody ever told its section.
            InvalidInput, Forbidden: the section makes no sense, or is not allowed.
        """
        key = f"{name}:{version}"

        async def change() -> Outcome:
            given = None if section is None else dict(section)
            # What was allowed once may not be any more.
            known = self._follower.wanted.changes.get(key)
            checked = given if given is not None or known is None else known.section
            if checked is not None:
                await asyncio.to_thread(permitted, self._config, key, checked)
            asked = await self._follower.change(
                partial(operations.load, key=key, section=given, make_current=make_current)
            )
            serial, upcoming = asked.changes[key].serial, asked.upcoming.get(name)
            current = upcoming is not None and upcoming.version == version
            return await self._wait(
                lambda: self._is_loaded(key, serial, current=current), name, version, timeout_s
            )

        verb = "load and make current" if make_current else "load"
        return await self._logged(f"{verb} {key}", by, change)

    async def unload(
        self, name: str, version: str | None = None, *, by: str, timeout_s: float = TIMEOUT_S
    ) -> Outcome:
        """Unload a version in all workers, once those who use it are answered.

        Args:
            name: of the model.
            version: None: all versions, and so the model.
            by: who asked.
            timeout_s: to wait for.

        Raises:
            NotFound: there is no such version.
            Conflict: it is current, and the model has others.
        """
        operation: Operation = (
            partial(operations.unload_model, name=name)
            if version is None
            else partial(operations.unload, key=f"{name}:{version}")
        )

        async def change() -> Outcome:
            asked = await self._follower.change(operation)
            return await self._wait(
                lambda: self._is_gone(name, version, asked.revision), name, version, timeout_s
            )

        what = name if version is None else f"{name}:{version}"
        return await self._logged(f"unload {what}", by, change)

    async def make_current(
        self, name: str, version: str, *, by: str, timeout_s: float = TIMEOUT_S
    ) -> Outcome:
        """Have a version answer where none is named, in all workers.

        Raises:
            NotFound: there is no such version.
            Conflict: it is not ready in some worker, or another one was made current meanwhile.
        """

        async def change() -> Outcome:
            await self._follower.change(partial(operations.make_current, key=f"{name}:{version}"))
            return await self._wait(
                lambda: self._is_current(name, version), name, version, timeout_s
            )

        return await self._logged(f"make {name}:{version} current", by, change)

    async def roll_back(self, name: str, *, by: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Make the version current, in all workers, that was so before.

        Raises:
            NotFound: there is no such model.
            Conflict: there is none to go back to, or another one was made current meanwhile.
        """

        async def change() -> Outcome:
            asked = await self._follower.change(partial(operations.roll_back, name=name))
            version = asked.upcoming[name].version
            return await self._wait(
                lambda: self._is_current(name, version), name, version, timeout_s
            )

        return await self._logged(f"roll {name} back", by, change)

    async def set_candidate(
        self, name: str, candidate: Candidate, *, by: str, timeout_s: float = TIMEOUT_S
    ) -> Outcome:
        """Try a version beside the current one, in all workers.

        Raises:
            NotFound: there is no such version.
            Conflict: it is current, is not ready in some worker, or has another task than the
                current version.
        """

        def operation(base: Base, wanted: Wanted) -> Wanted:
            changed = operations.set_candidate(base, wanted, name, candidate)
            if unready := self._unready(name, candidate.version):
                raise Conflict(unready)
            self._check_task(name, candidate.version)
            return changed

        return await self._tried(f"try {name}:{candidate}", name, operation, by, timeout_s)

    async def clear_candidate(self, name: str, *, by: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Have the current version answer all requests that name none, in all workers.

        Raises:
            NotFound: there is no such model.
            Conflict: it has no candidate.
        """
        operation = partial(operations.clear_candidate, name=name)
        return await self._tried(
            f"try nothing beside the current version of {name}", name, operation, by, timeout_s
        )

    async def promote(self, name: str, *, by: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Make a model's candidate current, in all workers.

        Raises:
            NotFound: there is no such model.
            Conflict: it has no candidate, or that is not ready in some worker, or another version
                was made current meanwhile.
        """

        async def change() -> Outcome:
            asked = await self._follower.change(partial(operations.promote, name=name))
            version = asked.upcoming[name].version
            return await self._wait(
                lambda: self._is_current(name, version), name, version, timeout_s
            )

        return await self._logged(f"promote the candidate of {name}", by, change)

    def unloaded(self, name: str) -> list[str]:
        """Return the versions of a model that can be loaded without a section, and are not."""
        changes = self._follower.wanted.changes.items()
        return [
            key.partition(":")[2]
            for key, change in changes
            if key.startswith(f"{name}:") and change.phase is Phase.UNLOADED
        ]

    # What is waited for.

    async def _wait(
        self, is_done: Callable[[], bool], name: str, version: str | None, timeout_s: float
    ) -> Outcome:
        try:
            await self._follower.until(lambda: is_done() or None, timeout_s)
        except TimeoutError:
            return self._outcome(name, version, done=False)
        return self._outcome(name, version, done=True)

    def _is_loaded(self, key: str, serial: int, *, current: bool) -> bool:
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
        return self._is_current(name, version) if current else True

    def _is_current(self, name: str, version: str) -> bool:
        wanted, deciding = self._follower.wanted, self._follower.deciding
        upcoming = wanted.upcoming.get(name)
        if upcoming is not None and upcoming.version == version:
            return False
        if upcoming is not None or self._follower.plan.current.get(name) != version:
            raise Conflict(
                self._unready(name, version)
                or f"{name}:{version} is not current: another change came in between"
            )
        return all(
            report.revision >= wanted.revision and report.current.get(name) == version
            for report in deciding
        )

    def _unready(self, name: str, version: str) -> str:
        failed = [
            f"{held.error} (worker {report.pid} on {report.host})"
            for report in self._follower.deciding
            for held in report.versions
            if held.key == f"{name}:{version}" and held.state is State.FAILED
        ]
        return f"{name}:{version} is not ready: {failed[0]}" if failed else ""

    async def _tried(
        self, what: str, name: str, operation: Operation, by: str, timeout_s: float
    ) -> Outcome:
        async def change() -> Outcome:
            asked = await self._follower.change(operation)
            candidate = asked.candidates.get(name)
            version = candidate.version if candidate else None
            return await self._wait(
                lambda: self._have_read(asked.revision), name, version, timeout_s
            )

        return await self._logged(what, by, change)

    def _have_read(self, revision: int) -> bool:
        return all(report.revision >= revision for report in self._follower.deciding)

    def _check_task(self, name: str, version: str) -> None:
        repository = self._follower.repository
        candidate, current = repository.find(name, version), repository.find(name)
        if candidate.config.task != current.config.task:
            raise Conflict(
                f"the task of {candidate.key} is {candidate.config.task}, and that of "
                f"{current.key}, which is current, {current.config.task}; the same requests "
                f"cannot go to both"
            )

    def _is_gone(self, name: str, version: str | None, revision: int) -> bool:
        def is_left(report: Report) -> bool:
            earlier = (held.key for held in report.versions if held.serial < revision)
            split = (key.partition(":")[::2] for key in earlier)
            return any(n == name and version in (None, v) for n, v in split)

        return all(
            report.revision >= revision and not is_left(report)
            for report in self._follower.deciding
        )

    def _outcome(self, name: str, version: str | None, *, done: bool) -> Outcome:
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

    async def _logged(
        self, what: str, by: str, change: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        try:
            outcome = await change()
        except RequestError as error:
            _log(logging.WARNING, by, what, f"{error.code}: {error}")
            raise
        except asyncio.CancelledError:
            _log(logging.INFO, by, what, "hung up, and it goes on")
            raise
        _log(logging.INFO, by, what, "done" if outcome.done else "goes on")
        return outcome


def _log(level: int, by: str, what: str, result: str) -> None:
    # One line, whatever names a client makes up.
    line = CONTROL.sub(lambda found: repr(found[0])[1:-1], f"{by} asks to {what}: {result}")
    logger.log(level, "administration: %s", line)


def _versions(report: Report, name: str) -> dict[str, str]:
    return {
        held.key.partition(":")[2]: str(held.state)
        for held in report.versions
        if held.key.startswith(f"{name}:")
    }

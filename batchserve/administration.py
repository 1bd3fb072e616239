"""The one place where an operator changes what is served, whatever protocol it was asked in.

Each change is made for all workers, waited for, and logged with who asked for it.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from batchserve.agreement import Agreement, Outcome
from batchserve.config import Config
from batchserve.errors import Conflict, RequestError
from batchserve.permission import permitted
from batchserve.repository import operations
from batchserve.repository.follower import Follower, Operation
from batchserve.repository.wanted import Base, Candidate, Phase, Wanted

logger = logging.getLogger(__name__)

# How long a change is waited for, unless the operator says otherwise.
TIMEOUT_S = 600.0
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
        self._agreement = Agreement(follower)

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
        verb = "load and make current" if make_current else "load"
        given = None if section is None else dict(section)
        loaded = self._load(name, version, given, make_current, timeout_s)
        return await _logged(f"{verb} {name}:{version}", by, loaded)

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
        what = name if version is None else f"{name}:{version}"
        return await _logged(f"unload {what}", by, self._unload(name, version, timeout_s))

    async def make_current(
        self, name: str, version: str, *, by: str, timeout_s: float = TIMEOUT_S
    ) -> Outcome:
        """Have a version answer where none is named, in all workers.

        Raises:
            NotFound: there is no such version.
            Conflict: it is not ready in some worker, or another one was made current meanwhile.
        """
        operation = partial(operations.make_current, key=f"{name}:{version}")
        switched = self._switch(name, operation, timeout_s)
        return await _logged(f"make {name}:{version} current", by, switched)

    async def roll_back(self, name: str, *, by: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Make the version current, in all workers, that was so before.

        Raises:
            NotFound: there is no such model.
            Conflict: there is none to go back to, or another one was made current meanwhile.
        """
        switched = self._switch(name, partial(operations.roll_back, name=name), timeout_s)
        return await _logged(f"roll {name} back", by, switched)

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
            if unready := self._agreement.unready(name, candidate.version):
                raise Conflict(unready)
            self._check_task(name, candidate.version)
            return changed

        tried = self._try(name, operation, timeout_s)
        return await _logged(f"try {name}:{candidate}", by, tried)

    async def clear_candidate(self, name: str, *, by: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Have the current version answer all requests that name none, in all workers.

        Raises:
            NotFound: there is no such model.
            Conflict: it has no candidate.
        """
        tried = self._try(name, partial(operations.clear_candidate, name=name), timeout_s)
        return await _logged(f"try nothing beside the current version of {name}", by, tried)

    async def promote(self, name: str, *, by: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Make a model's candidate current, in all workers.

        Raises:
            NotFound: there is no such model.
            Conflict: it has no candidate, or that is not ready in some worker, or another version
                was made current meanwhile.
        """
        switched = self._switch(name, partial(operations.promote, name=name), timeout_s)
        return await _logged(f"promote the candidate of {name}", by, switched)

    def unloaded(self, name: str) -> list[str]:
        """Return the versions of a model that can be loaded without a section, and are not."""
        changes = self._follower.wanted.changes.items()
        return [
            key.partition(":")[2]
            for key, change in changes
            if key.startswith(f"{name}:") and change.phase is Phase.UNLOADED
        ]

    # How each is done: changed for all, and waited for.

    async def _load(
        self,
        name: str,
        version: str,
        section: dict[str, Any] | None,
        make_current: bool,
        timeout_s: float,
    ) -> Outcome:
        key = f"{name}:{version}"
        # What was allowed once may not be any more.
        known = self._follower.wanted.changes.get(key)
        checked = section if section is not None or known is None else known.section
        if checked is not None:
            await asyncio.to_thread(permitted, self._config, key, checked)
        asked = await self._follower.change(
            partial(operations.load, key=key, section=section, make_current=make_current)
        )
        serial, upcoming = asked.changes[key].serial, asked.upcoming.get(name)
        current = upcoming is not None and upcoming.version == version
        is_loaded = partial(self._agreement.is_loaded, key, serial, current=current)
        return await self._wait(is_loaded, name, version, timeout_s)

    async def _unload(self, name: str, version: str | None, timeout_s: float) -> Outcome:
        operation: Operation = (
            partial(operations.unload_model, name=name)
            if version is None
            else partial(operations.unload, key=f"{name}:{version}")
        )
        asked = await self._follower.change(operation)
        is_gone = partial(self._agreement.is_gone, name, version, asked.revision)
        return await self._wait(is_gone, name, version, timeout_s)

    async def _switch(self, name: str, operation: Operation, timeout_s: float) -> Outcome:
        asked = await self._follower.change(operation)
        version = asked.upcoming[name].version
        is_current = partial(self._agreement.is_current, name, version)
        return await self._wait(is_current, name, version, timeout_s)

    async def _try(self, name: str, operation: Operation, timeout_s: float) -> Outcome:
        asked = await self._follower.change(operation)
        candidate = asked.candidates.get(name)
        version = candidate.version if candidate else None
        have_read = partial(self._agreement.have_read, asked.revision)
        return await self._wait(have_read, name, version, timeout_s)

    async def _wait(
        self, is_done: Callable[[], bool], name: str, version: str | None, timeout_s: float
    ) -> Outcome:
        try:
            await self._follower.until(lambda: is_done() or None, timeout_s)
        except TimeoutError:
            return self._agreement.outcome(name, version, done=False)
        return self._agreement.outcome(name, version, done=True)

    def _check_task(self, name: str, version: str) -> None:
        repository = self._follower.repository
        candidate, current = repository.find(name, version), repository.find(name)
        if candidate.config.task != current.config.task:
            raise Conflict(
                f"the task of {candidate.key} is {candidate.config.task}, and that of "
                f"{current.key}, which is current, {current.config.task}; the same requests "
                f"cannot go to both"
            )


async def _logged(what: str, by: str, change: Awaitable[Outcome]) -> Outcome:
    """Wait for a change, and log who asked for it and what has come of it."""
    try:
        outcome = await change
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

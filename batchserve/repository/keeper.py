"""Brings one worker's repository in line with a plan, step by step."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from batchserve.config import ModelConfig
from batchserve.errors import LoadError, RequestError
from batchserve.repository.reconcile import Held, steps
from batchserve.repository.reports import VersionReport
from batchserve.repository.repository import ModelRepository
from batchserve.repository.version import ModelVersion, State
from batchserve.repository.wanted import Plan, Target

logger = logging.getLogger(__name__)

# How long what is unloaded may go on with what it was asked.
UNLOAD_S = 600.0

Configure = Callable[[str, dict[str, Any]], ModelConfig]


class Keeper:
    """Loads one version at a time, beside what serves, and unloads any number.

    Args:
        repository: empty; it is filled here.
        configs: of what the config file has, by their keys.
        configure: makes a config of a section that came over HTTP; waits for the disk; may raise.
        on_change: called when a step is over.
    """

    def __init__(
        self,
        repository: ModelRepository,
        configs: Mapping[str, ModelConfig],
        configure: Configure,
        on_change: Callable[[], None],
    ) -> None:
        self.repository = repository
        self._configs = configs
        self._configure = configure
        self._on_change = on_change
        self._loading: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def loading(self) -> bool:
        return self._loading is not None

    def obey(self, planned: Plan) -> dict[str, str]:
        """Begin what is to be done; return the models that now answer with another version."""
        repository = self.repository
        held = [Held(found.key, found.serial, found.state) for found in repository.versions]
        todo = steps(planned, held, repository.currents)
        for name, version in todo.make_current.items():
            repository.make_current(name, version)
        repository.candidates = planned.candidates
        unwanted = {(found.key, found.serial) for found in todo.unload}
        for found in [v for v in repository.versions if (v.key, v.serial) in unwanted]:
            task = asyncio.create_task(self._unload(found))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        if todo.load and self._loading is None:
            # A worker that starts serves before it loads what is new to all.
            first = next((target for target in todo.load if target.settled), todo.load[0])
            self._loading = asyncio.create_task(self._load(first))
        repository.arrange([(target.key, target.serial) for target in planned.targets])
        ready = {version.key for version in held if version.state is State.READY}
        return {n: v for n, v in todo.make_current.items() if f"{n}:{v}" in ready}

    def has_tried(self, planned: Plan) -> bool:
        """Whether all that every worker has had ready is ready here, or has failed."""
        found = [self._find(target) for target in planned.targets if target.settled]
        return all(v is not None and v.state in (State.READY, State.FAILED) for v in found)

    def check(self, planned: Plan, *, strict: bool) -> None:
        """Raise if what was tried does not do.

        Args:
            planned: what was.
            strict: a version that fails is a failure of all; otherwise only if none is ready.

        Raises:
            LoadError: of the first that failed.
        """
        failed = [
            version
            for target in planned.targets
            if target.settled and (version := self._find(target)) and version.state is State.FAILED
        ]
        if failed and (strict or not any(found.ready for found in self.repository.versions)):
            raise LoadError(failed[0].error or failed[0].key)

    def reports(self) -> tuple[VersionReport, ...]:
        """Return the state of everything that is here, what is being unloaded included."""
        versions = [*self.repository.versions, *self.repository.retiring]
        return tuple(_report(version) for version in versions)

    async def close(self) -> None:
        """Begin nothing more; the repository stays as it is."""
        tasks = [*self._retiring, *([self._loading] if self._loading else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, target: Target) -> None:
        try:
            version = await self._add(target)
            if version.error is None:
                await self.repository.load_version(version)
        except LoadError as error:
            logger.error("%s cannot be loaded: %s", target.key, error)  # noqa: TRY400
        finally:
            self._loading = None
            self._on_change()

    async def _add(self, target: Target) -> ModelVersion:
        if target.section is None:
            return self.repository.add(self._configs[target.key], target.serial)
        try:
            config = await asyncio.to_thread(self._configure, target.key, target.section)
        except RequestError as error:
            # It was allowed once. This stands there for its name and version.
            logger.error("%s cannot be loaded any more: %s", target.key, error)  # noqa: TRY400
            stub = ModelConfig.model_construct(
                name=target.name, version=target.version, source="unknown"
            )
            version = self.repository.add(stub, target.serial)
            version.fail(str(error))
            return version
        return self.repository.add(config, target.serial)

    async def _unload(self, version: ModelVersion) -> None:
        await self.repository.retire(version, UNLOAD_S)
        if version.loaded:
            logger.info("%s unloaded", version.key)
        self._on_change()

    def _find(self, target: Target) -> ModelVersion | None:
        found = (
            version
            for version in self.repository.versions
            if (version.key, version.serial) == (target.key, target.serial)
        )
        return next(found, None)


def _report(version: ModelVersion) -> VersionReport:
    return VersionReport(
        key=version.key,
        serial=version.serial,
        state=version.state,
        progress=version.progress,
        error=version.error,
    )

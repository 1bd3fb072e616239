"""The models that are served: all their versions, and which of them is current."""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence

from batchserve.config import ModelConfig
from batchserve.errors import LoadError, NotFound
from batchserve.repository.trial import Trial
from batchserve.repository.version import ModelVersion, OnBatch, OnFault, State
from batchserve.repository.wanted import Candidate, Wanted, base_of, plan

logger = logging.getLogger(__name__)


class ModelRepository:
    """All versions of all models, in the order in which they were added.

    Of several versions of one model, the first answers where none is named, until another is made
    current. A version can be there twice for a while: the one that serves, and its replacement.

    Args:
        configs: the first one answers where no model is named.
        on_batch: called with each version's batches.
        on_fault: called with what went wrong with one.
        hang_s: a forward pass that takes longer never returns.
        threads: cores that a forward pass may use; None: as many as torch is told to.

    Attributes:
        versions: what requests can find.
        retiring: what they cannot find any more, but still use.
        candidates: what is tried beside the current version, of each model that has one.
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig] = (),
        on_batch: OnBatch = lambda _model, _batch: None,
        on_fault: OnFault = lambda _model, _fault: None,
        hang_s: float = math.inf,
        threads: int | None = None,
    ) -> None:
        self._on_batch, self._on_fault = on_batch, on_fault
        self._hang_s, self._threads = hang_s, threads
        self._current: dict[str, str] = {}
        # What requests have found since the last change.
        self._found: dict[tuple[str | None, str | None], ModelVersion] = {}
        self.versions = [ModelVersion(config, hang_s, threads=threads) for config in configs]
        self.retiring: list[ModelVersion] = []
        self.candidates: Mapping[str, Candidate] = plan(base_of(configs), Wanted()).candidates

    # Changing it.

    def add(self, config: ModelConfig, serial: int = 0) -> ModelVersion:
        """Put a version there, which is not loaded yet."""
        version = ModelVersion(config, self._hang_s, serial, self._threads)
        self.versions.append(version)
        self._found.clear()
        return version

    async def load(self, *, strict: bool = True) -> None:
        """Load every version, one after the other.

        Args:
            strict: one that fails is a failure of all; otherwise only if none can be loaded.

        Raises:
            LoadError: of the first that failed.
        """
        errors: dict[str, LoadError] = {}
        for version in list(self.versions):
            try:
                await self.load_version(version)
            except LoadError as error:
                if strict:
                    raise
                errors[version.key] = error
        if errors and not any(version.ready for version in self.versions):
            raise next(iter(errors.values()))
        for key, reason in errors.items():
            logger.error("%s answers 503, because it cannot be loaded: %s", key, reason)

    async def load_version(self, version: ModelVersion) -> None:
        """Load one that is there.

        Raises:
            LoadError: it cannot be loaded; it stays, as failed.
        """
        await version.load(self._on_batch, self._on_fault)
        self._found.clear()

    def make_current(self, name: str, version: str) -> None:
        """Have requests that name no version find this one from now on."""
        self._current[name] = version
        self._found.clear()

    def arrange(self, order: Sequence[tuple[str, int]]) -> None:
        """Sort the versions by their keys and serials; what is not among them comes last."""
        places = {place: number for number, place in enumerate(order)}
        arranged = sorted(
            self.versions, key=lambda found: places.get((found.key, found.serial), len(places))
        )
        if arranged != self.versions:
            self.versions = arranged
            self._found.clear()

    async def retire(self, version: ModelVersion, within_s: float = math.inf) -> None:
        """Let nobody find it any more, let those finish who use it, and give its memory back."""
        self.versions.remove(version)
        self._found.clear()
        self.retiring.append(version)
        try:
            await version.retire(within_s)
        finally:
            self.retiring.remove(version)

    # Asking it.

    @property
    def ready(self) -> bool:
        """Whether all that has been loaded would answer now, and something has been."""
        loaded = [version for version in self.versions if version.loaded]
        return all(version.ready for version in loaded) and bool(loaded or not self.versions)

    @property
    def failed(self) -> dict[str, str]:
        """Why versions could not be loaded, by their keys."""
        return {
            version.key: version.error or ""
            for version in self.versions
            if version.state is State.FAILED
        }

    @property
    def lost(self) -> str:
        """Which versions are lost for good, and why; empty if none is."""
        return "; ".join(
            f"{version.key} is lost: {version.lost}"
            for version in [*self.versions, *self.retiring]
            if version.lost is not None
        )

    def current(self, name: str) -> str | None:
        """Return the version that answers where none is named; None: there is no such model."""
        known = [found.version for found in self.versions if found.name == name]
        current = self._current.get(name)
        return current if current in known else next(iter(known), None)

    @property
    def currents(self) -> dict[str, str]:
        """The version that answers where none is named, of each model."""
        names = dict.fromkeys(found.name for found in self.versions)
        return {name: current for name in names if (current := self.current(name)) is not None}

    def find(self, name: str | None = None, version: str | None = None) -> ModelVersion:
        """Return the version that shall answer.

        Args:
            name: None: the first model.
            version: None: the current one.

        Raises:
            NotFound: there is no such model or version; the message lists what there is.
        """
        if (found := self._found.get((name, version))) is None:
            found = self._found[name, version] = self._find(name, version)
        return found

    def trial(self, current: ModelVersion) -> Trial | None:
        """Return what is tried beside a current version; None: nothing that could answer now."""
        candidate = self.candidates.get(current.name)
        if candidate is None or candidate.version == current.version:
            return None
        for found in self.versions:
            is_it = (found.name, found.version) == (current.name, candidate.version)
            # What was decoded for the one must be something to the other.
            if is_it and found.ready and found.config.task == current.config.task:
                return Trial(found, candidate.share, candidate.shadow)
        return None

    @property
    def idle(self) -> bool:
        """Whether nobody asks any version for anything now."""
        versions = [*self.versions, *self.retiring]
        return all(found.batcher.idle for found in versions if found.loaded)

    def drain(self) -> None:
        for version in [*self.versions, *self.retiring]:
            version.drain()

    async def close(self) -> None:
        await asyncio.gather(*(version.close() for version in [*self.versions, *self.retiring]))

    def _find(self, name: str | None, version: str | None) -> ModelVersion:
        if name is None:
            if not self.versions:
                raise NotFound("no model is served here now")
            name = self.versions[0].name
        named = [found for found in self.versions if found.name == name]
        if not named:
            names = sorted({found.name for found in self.versions})
            raise NotFound(f"there is no model {name!r}; served are {', '.join(names) or 'none'}")
        wanted = version or self.current(name)
        matching = [found for found in named if found.version == wanted]
        if not matching:
            versions = ", ".join(dict.fromkeys(found.version for found in named))
            raise NotFound(f"model {name!r} has no version {version!r}; it has {versions}")
        # Its replacement may not be ready yet.
        return next((found for found in matching if found.ready), matching[0])

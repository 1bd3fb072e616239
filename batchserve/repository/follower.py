"""One worker's part in the agreement: read the document, have it obeyed, report, decide."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from batchserve.config import ModelConfig
from batchserve.errors import Conflict, StartupError, StoreUnavailable
from batchserve.repository.keeper import Configure, Keeper
from batchserve.repository.reconcile import advance
from batchserve.repository.reports import Report, counted
from batchserve.repository.repository import ModelRepository
from batchserve.repository.shared import Shared
from batchserve.repository.wanted import Base, Plan, Wanted, base_of, in_words, plan
from batchserve.stores.base import Store, StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")
# How often to look for changes; the latter while there are some that are not done.
POLL_S, HURRY_S = 0.2, 0.05
# How often to try again if others change the document at the same time.
ATTEMPTS = 20

Operation = Callable[[Base, Wanted], Wanted]


@dataclass(frozen=True)
class Identity:
    """Who a worker is.

    Attributes:
        server: names its Gunicorn master.
        generation: counts that server's reloads.
    """

    server: str
    generation: int = 0
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)

    @property
    def worker(self) -> str:
        return f"{self.server}.{self.pid}"


class Follower:
    """Keeps a repository in line with the document in a store.

    Args:
        repository: empty; it is filled here.
        open_store: waits for a disk or a network; may raise `StoreError`.
        configs: what the config file has.
        configure: makes a config of a section that came over HTTP; waits for the disk; may raise.
        identity: of this worker.
    """

    def __init__(
        self,
        repository: ModelRepository,
        open_store: Callable[[], Store],
        configs: Sequence[ModelConfig],
        configure: Configure,
        identity: Identity,
    ) -> None:
        self.repository = repository
        by_key = {config.key: config for config in configs}
        self.base = base_of(configs)
        self._keeper = Keeper(repository, by_key, configure, self.poke)
        self._identity = identity
        self._shared = Shared(open_store, identity.worker)
        self._serving = False
        self._trouble = ""
        self._ignored: tuple[str, ...] = ()
        self._lock = asyncio.Lock()
        self._poked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._loop: asyncio.Task[None] | None = None

    # What the owner calls.

    async def start(self, *, strict: bool) -> None:
        """Load all that every worker is to have, and follow from then on.

        What is being loaded elsewhere is loaded here, too, but not waited for.

        Args:
            strict: a version that fails is a failure of all.

        Raises:
            LoadError: of a version that failed; if not strict, only if none is ready.
            StartupError: the store cannot be used.
        """
        try:
            await self._shared.open()
            await self._shared.look()
        except StoreError as error:
            raise StartupError(str(error)) from error
        for words in in_words(self.wanted):
            logger.info("changed over HTTP since the config file was written: %s", words)
        self._loop = asyncio.create_task(self._follow(), name="follower")
        await self._try_all(strict=strict)
        await self._join()
        # Others may have decided something without this worker until then.
        await self._try_all(strict=strict)

    async def _try_all(self, *, strict: bool) -> None:
        await self.until(lambda: self._keeper.has_tried(self.plan) or None)
        self._keeper.check(self.plan, strict=strict)

    async def _join(self) -> None:
        """Be one of those who decide.

        Whoever is about to decide without having read this worker's report finds that the document
        is another one meanwhile.
        """
        self._serving = True
        for _ in range(ATTEMPTS):
            async with self._lock:
                try:
                    await self._shared.look()
                    # What has become ready since is still to be made current.
                    self._obey()
                    await self._shared.tell(self._report())
                    if await self._shared.replace(self.wanted.next()):
                        return
                except StoreError as error:
                    raise StartupError(str(error)) from error
        raise StartupError("server.state: others change it all the time; this is a bug")

    async def close(self) -> None:
        """Follow no more; the repository stays as it is."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._keeper.close()
        await self._shared.close()

    # What an operator asks for.

    async def change(self, operation: Operation) -> Wanted:
        """Change the document, and return it; `until` tells what has come of it.

        Raises:
            Conflict: others change it all the time.
            StoreUnavailable: it cannot be read or written.
            RequestError: whatever the operation raises.
        """
        for _ in range(ATTEMPTS):
            async with self._lock:
                try:
                    await self._shared.look()
                    changed = operation(self.base, self.wanted)
                    if await self._shared.replace(changed):
                        self.poke()
                        return changed
                except StoreError as error:
                    raise StoreUnavailable(f"nothing was changed: {error}") from error
        raise Conflict("others change what is served at the same time; try again")

    async def until(self, condition: Callable[[], T | None], timeout_s: float | None = None) -> T:
        """Return what the condition does, once that is not None; it is asked after each look.

        Raises:
            TimeoutError: it takes longer.
        """
        async with asyncio.timeout(timeout_s):
            while (outcome := condition()) is None:
                looked = asyncio.get_running_loop().create_future()
                self._waiting.append(looked)
                self.poke()
                await looked
        return outcome

    async def refresh(self) -> None:
        """Read the reports of the others anew, if that is possible."""
        if not self._trouble:
            async with self._lock:
                with suppress(StoreError):
                    await self._shared.look()

    @property
    def wanted(self) -> Wanted:
        """The document, as last read."""
        return self._shared.wanted

    @property
    def reports(self) -> Mapping[str, Report]:
        """What all workers that live have told, as last read, by their names."""
        return self._shared.reports

    @property
    def plan(self) -> Plan:
        """What every worker shall have."""
        return plan(self.base, self.wanted)

    @property
    def deciding(self) -> list[Report]:
        """The reports of those who serve, except for what a reload is replacing."""
        return counted(self.reports.values())

    def poke(self) -> None:
        """Look at once."""
        self._poked.set()

    # The loop.

    async def _follow(self) -> None:
        while True:
            try:
                async with self._lock:
                    await self._shared.look()
                    self._obey()
                    await self._shared.tell(self._report())
                    await self._decide()
                self._note_trouble("")
            except StoreError as error:
                self._note_trouble(str(error))
            except Exception:
                logger.exception("a bug in batchserve; what is wanted is looked at again")
            self._wake()
            with suppress(TimeoutError):
                async with asyncio.timeout(HURRY_S if self._is_busy() else POLL_S):
                    await self._poked.wait()
            self._poked.clear()

    def _obey(self) -> None:
        planned = self.plan
        if planned.ignored != self._ignored:
            self._ignored = planned.ignored
            for words in planned.ignored:
                logger.warning("a change that was made over HTTP is ignored: %s", words)
        for name, version in self._keeper.obey(planned).items():
            if self._serving:
                logger.info("%s:%s is current now", name, version)

    async def _decide(self) -> None:
        """Decide for all, if it can be decided now."""
        # What a reload is replacing knows another config file.
        if self.reports[self._identity.worker] in self.deciding:
            decided = advance(self.base, self.wanted, self.reports.values())
            if decided is not None:
                await self._shared.replace(decided)
                self.poke()

    # The parts of it.

    def _report(self) -> Report:
        return Report(
            server=self._identity.server,
            host=self._identity.host,
            pid=self._identity.pid,
            generation=self._identity.generation,
            serving=self._serving,
            revision=self.wanted.revision,
            versions=self._keeper.reports(),
            current=self.repository.currents,
        )

    def _is_busy(self) -> bool:
        planned = self.plan
        return bool(
            self._waiting
            or self.wanted.upcoming
            or self._keeper.loading
            or not all(target.settled for target in planned.targets)
        )

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for looked in waiting:
            if not looked.done():
                looked.set_result(None)

    def _note_trouble(self, trouble: str) -> None:
        if trouble and not self._trouble:
            logger.error("%s; meanwhile everything is served as it is", trouble)
        elif self._trouble and not trouble:
            logger.info("server.state can be used again")
        self._trouble = trouble

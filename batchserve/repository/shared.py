"""What all workers share, as one of them sees it: the document, and what each reports."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from batchserve.mistakes import explained
from batchserve.repository.reports import Report
from batchserve.repository.wanted import Wanted
from batchserve.stores.base import Store, StoreError

T = TypeVar("T")
# A worker that has not reported for so long is dead, and how often it reports.
TTL_S, HEARTBEAT_S = 10.0, 2.0


class Shared:
    """A store that is asked on a thread of its own, and what was last read of it.

    Opening, reading and writing may raise `StoreError`.

    Args:
        open_store: waits for a disk or a network; may raise `StoreError`.
        worker: the name under which this one reports.

    Attributes:
        wanted: the document.
        reports: of all workers that live, by their names.
    """

    def __init__(self, open_store: Callable[[], Store], worker: str) -> None:
        self.wanted = Wanted()
        self.reports: dict[str, Report] = {}
        self._open_store = open_store
        self._worker = worker
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._parsed: dict[str, Report] = {}
        self._told, self._told_s = "", 0.0

    async def open(self) -> None:
        """Open the store, which is to be done first."""
        self._store = await self._call(self._open_store)

    async def look(self) -> None:
        """Read the document and the reports."""
        reading = await self._call(self._opened.read, self.wanted.revision)
        if reading.document is not None:
            self.wanted = _parse(reading.document)
        self._parsed = {
            text: self._parsed.get(text) or Report.model_validate_json(text)
            for text in reading.reports.values()
        }
        self.reports = {worker: self._parsed[text] for worker, text in reading.reports.items()}

    async def replace(self, changed: Wanted) -> bool:
        """Write the document; False: somebody else did since it was read."""
        text = changed.model_dump_json(exclude_defaults=True)
        replaced = await self._call(self._opened.replace, changed.revision, text)
        if replaced:
            self.wanted = changed
        return replaced

    async def tell(self, report: Report) -> None:
        """Report what there is here, if that has changed or nothing was heard for long."""
        text = report.model_dump_json(exclude_defaults=True)
        now_s = asyncio.get_running_loop().time()
        if text != self._told or now_s - self._told_s > HEARTBEAT_S:
            await self._call(self._opened.report, self._worker, text, TTL_S)
            self._told, self._told_s = text, now_s
        self.reports[self._worker] = report

    async def close(self) -> None:
        """Be forgotten by the others, and close the store."""
        store, self._store = self._store, None
        if store is not None:
            with suppress(StoreError):
                await self._call(store.forget, self._worker)
            await self._call(store.close)
        self._thread.shutdown(wait=False)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    @property
    def _opened(self) -> Store:
        if self._store is None:
            raise StoreError("server.state is not open")
        return self._store


def _parse(document: str) -> Wanted:
    if not document:
        return Wanted()
    try:
        return Wanted.model_validate_json(document)
    except ValidationError as error:
        raise StoreError(
            f"server.state holds what this release of batchserve does not understand; name "
            f"another one, or move it away, and its changes will be lost: {explained(error)}"
        ) from None

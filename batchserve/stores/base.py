"""What keeps the document and the workers' reports where all workers find them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from batchserve.errors import BatchserveError


class StoreError(BatchserveError):
    """The store cannot be read or written; the message names it and says why."""


@dataclass(frozen=True)
class Reading:
    """What a store held at one moment.

    Attributes:
        revision: of the document; 0: there is none yet.
        document: None: it is the one that the reader knows.
        reports: of the workers that live, by their names.
    """

    revision: int
    document: str | None
    reports: Mapping[str, str]


class Store(Protocol):
    """One small document that is changed by compare-and-set, and a report of each live worker.

    Its methods wait for a disk or a network, and are called by one thread at a time.
    """

    def read(self, known: int = -1) -> Reading:
        """Return what is there.

        Args:
            known: the revision of the document that need not be returned again.

        Raises:
            StoreError: it cannot be read.
        """
        ...

    def replace(self, revision: int, document: str) -> bool:
        """Put a document in place of the one before; return whether nobody else has done so.

        Args:
            revision: of the new document; that of the one before is one less.
            document: any text.

        Raises:
            StoreError: it cannot be written.
        """
        ...

    def report(self, worker: str, report: str, ttl_s: float) -> None:
        """Put a worker's report in place of its last one.

        Args:
            worker: its name.
            report: any text.
            ttl_s: it is forgotten if no other comes within so many seconds.

        Raises:
            StoreError: it cannot be written.
        """
        ...

    def forget(self, worker: str) -> None:
        """A worker is no more.

        Raises:
            StoreError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

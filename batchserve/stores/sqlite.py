"""The store of one machine: a file, by means of SQLite."""

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchserve.stores.base import Reading, StoreError

# How long to wait for another worker that writes.
BUSY_S = 5.0
# Of the tables below; another release may need others.
FORMAT = 1
TABLES = """
CREATE TABLE IF NOT EXISTS wanted (
    only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL, document TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS reports (
    worker TEXT PRIMARY KEY, from_s REAL NOT NULL, until_s REAL NOT NULL, report TEXT NOT NULL
);
INSERT OR IGNORE INTO wanted VALUES (1, 0, '');
"""


class SqliteStore:
    """A `Store` in a file, which all processes of one machine can share.

    Args:
        path: of the file, which is made if it is not there. It must not lie on a network's disk.
        clock: seconds, the same for all processes.

    Raises:
        StoreError: it is no file of ours, or cannot be made.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        with self._explained():
            if not path.exists():
                self._make()
            self._open(path)

    def read(self, known: int = -1) -> Reading:
        with self._explained(), self._transaction("DEFERRED"):
            revision, document = self._execute(
                "SELECT revision, CASE WHEN revision <> ? THEN document END FROM wanted", known
            ).fetchone()
            # From here on it reads what was written until now, so no report is later than this.
            now_s = self._clock()
            # After the machine has been started anew, its clock is behind what it was.
            reports = self._execute(
                "SELECT worker, report FROM reports WHERE from_s <= ? AND ? < until_s", now_s, now_s
            ).fetchall()
        return Reading(revision, document, dict(reports))

    def replace(self, revision: int, document: str) -> bool:
        with self._explained():
            # What an operator was told is done has to survive a power cut.
            self._execute("PRAGMA synchronous = FULL")
            changed = self._execute(
                "UPDATE wanted SET revision = ?, document = ? WHERE revision = ?",
                *(revision, document, revision - 1),
            ).rowcount
            self._execute("PRAGMA synchronous = NORMAL")
        return bool(changed)

    def report(self, worker: str, report: str, ttl_s: float) -> None:
        with self._explained(), self._transaction("IMMEDIATE"):
            # Now that nobody else writes: a report that came meanwhile would look like one of a
            # clock that has been set back.
            now_s = self._clock()
            self._execute(
                "DELETE FROM reports WHERE NOT (from_s <= ? AND ? < until_s)", now_s, now_s
            )
            self._execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?)",
                *(worker, now_s, now_s + ttl_s, report),
            )

    def forget(self, worker: str) -> None:
        with self._explained():
            self._execute("DELETE FROM reports WHERE worker = ?", worker)

    def close(self) -> None:
        self._connection.close()

    def _make(self) -> None:
        """Make the file, which is there as a whole or not at all.

        Of two workers that begin to write ahead in one file at the same time, SQLite lets one fail,
        however long it may wait.
        """
        # Nobody else has to read what is served, or may say it: the mode is 0600.
        handle, made = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        os.close(handle)
        try:
            self._open(Path(made))
            self._connection.close()
            # Not if another worker was faster.
            with suppress(FileExistsError):
                os.link(made, self._path)
        finally:
            Path(made).unlink()

    def _open(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._prepare()

    def _prepare(self) -> None:
        (found,) = self._execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise StoreError(
                f"server.state: {self._path} was written by another release of batchserve; name "
                f"another file, or move this one away, and its changes will be lost"
            )
        # Readers and a writer do not wait for each other.
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = NORMAL")
        with self._transaction("IMMEDIATE"):
            for statement in TABLES.split(";"):
                self._execute(statement)
            self._execute(f"PRAGMA user_version = {FORMAT}")

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"server.state: {self._path} cannot be used: {error}; make it a file that this "
                f"user may write, beside which files can be made, or move it away, and its "
                f"changes will be lost"
            ) from error

"""The folder for what is fetched or unpacked once, and used by all processes of a user."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from batchserve.errors import LoadError

logger = logging.getLogger(__name__)


def cache_folder(kind: str) -> Path:
    """Return the folder for things of a kind, which only this user can read.

    It lies in `$XDG_CACHE_HOME/batchserve`, by default `~/.cache/batchserve`
    (https://specifications.freedesktop.org/basedir-spec/latest/).

    Raises:
        LoadError: it cannot be made.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(home).expanduser() / "batchserve" / kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise _no_place(error) from error
    return folder


@contextmanager
def only_one(path: Path, doing: str) -> Iterator[None]:
    """Let one process at a time do something about a path; the others wait.

    Args:
        path: of the file or folder that comes of it, which need not be there yet.
        doing: what they do, for the log of those who wait.
    """
    # The file stays: whoever removed it would let in a second one beside those who wait for it.
    with _opened(path.with_name(f"{path.name}.lock")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process, which is %s", doing)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except OSError as error:
        raise _no_place(error) from error


def _no_place(error: Exception) -> LoadError:
    return LoadError(
        f"the cache cannot be written: {error}; set the environment variable XDG_CACHE_HOME to a "
        f"folder that can"
    )

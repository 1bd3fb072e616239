"""The folder for what is fetched or unpacked once, and used by all processes of a user."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        raise LoadError(
            f"there is no place to keep {kind}: {error}; set the environment variable "
            f"XDG_CACHE_HOME to a folder that can be written to"
        ) from error
    return folder


@contextmanager
def only_one(path: Path, doing: str) -> Iterator[None]:
    """Let one process at a time do something about a path; the others wait.

    Args:
        path: of the file or folder that comes of it, which need not be there yet.
        doing: what they do, for the log of those who wait.
    """
    # The file stays: whoever removed it would let in a second one beside those who wait for it.
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process, which is %s", doing)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

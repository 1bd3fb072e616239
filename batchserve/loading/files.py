"""Whether a file is there, and the one that was meant."""

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from batchserve.errors import LoadError

# How many bytes of a file are there, and of how many if that is known.
OnBytes = Callable[[int, int | None], None]


def check_file(path: Path) -> None:
    """Raise unless there is a file.

    Raises:
        LoadError: there is none; the message names near ones.
    """
    if path.is_file():
        return
    if path.is_dir():
        names = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise LoadError(f"{path} is a folder; name the file in it that holds the model: {names}")
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise LoadError(f"there is no file {path}; a path is relative to the config's folder{hint}")


def digest_of(path: Path) -> str:
    """Return a file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, sha256: str | None, name: str) -> None:
    """Raise unless a file has the checksum that is stated for it.

    Raises:
        LoadError: it has another.
    """
    if sha256 is not None and (digest := digest_of(path)) != sha256:
        raise LoadError(
            f"{name} is another file than was meant: its SHA-256 is {digest}, and not sha256: "
            f"{sha256}; correct that if this file is right"
        )

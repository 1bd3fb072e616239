"""Whether a file is the one that was meant."""

import hashlib
from pathlib import Path

from batchserve.errors import LoadError


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

"""A zip of a project to a folder, once for each content."""

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from batchserve.errors import LoadError
from batchserve.loading.cache import cache_folder, only_one

logger = logging.getLogger(__name__)

MOST_MEMBERS = 100_000
# Code shrinks to a fifth. What shrinks so much was made to fill disks.
MOST_RATIO, UNSUSPICIOUS_BYTES = 100, 256 * 2**20
# What other systems leave in zips, and Python beside its sources.
LITTER = ("__MACOSX", ".DS_Store", "__pycache__", ".git")


def unpacked(path: Path) -> Path:
    """Return the folder with what a zip holds, which lies in the user's cache.

    The folder is named after the content, so that another version of the zip gets another one.

    Raises:
        LoadError: it is damaged, or made to do harm.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        folder = cache_folder("projects") / digest
        with only_one(folder, f"unpacking {path}"):
            if not folder.is_dir():
                _unpack_all(file, path, folder)
    return folder


def _unpack_all(file: IO[bytes], path: Path, folder: Path) -> None:
    # Whole or not at all: it gets its name when everything is in it.
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if _wanted(info)]
            _check(members, path, shutil.disk_usage(partial).free)
            for info in members:
                _unpack(archive, info, partial)
        partial.replace(folder)
    except LoadError:
        raise
    except Exception as error:  # of the system, of zipfile, or of one of its decompressors
        raise LoadError(f"{path} cannot be unpacked to {folder.parent}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("unpacked %s to %s", path, folder)


def _wanted(info: zipfile.ZipInfo) -> bool:
    return not (info.is_dir() or set(PurePosixPath(info.filename).parts) & set(LITTER))


def _check(members: list[zipfile.ZipInfo], path: Path, free_bytes: int) -> None:
    """Raise unless every member stays in its folder, and all find room."""
    for info in members:
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
            raise LoadError(f"{path} holds {info.filename!r}, which lies outside of it")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise LoadError(f"{path} holds the link {info.filename!r}; put the file itself into it")
        if info.flag_bits & 1:
            raise LoadError(f"{path} is encrypted; zip it without a password")
    total = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if len(members) > MOST_MEMBERS:
        raise LoadError(
            f"{path} holds {len(members)} files; more than {MOST_MEMBERS} are no project"
        )
    if total > UNSUSPICIOUS_BYTES and total > MOST_RATIO * packed:
        raise LoadError(
            f"{path} would grow from {packed} to {total} bytes, which no project does; if that is "
            f"so, zip it without compression"
        )
    if total > free_bytes:
        raise LoadError(f"{path} needs {total} bytes when unpacked, and {free_bytes} are free")


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / info.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    # No more than the size that was checked is read, and the checksum afterwards.
    with archive.open(info) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        os.fsync(copy.fileno())

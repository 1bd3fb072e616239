"""Files from URLs: fetched once, whole, and only the ones that were meant."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from urllib3.util import Retry

from batchserve.errors import LoadError
from batchserve.loading.cache import cache_folder, only_one
from batchserve.loading.files import OnBytes, check_digest, digest_of
from batchserve.loading.recognise import recognise
from batchserve.urls import is_safe, shown

logger = logging.getLogger(__name__)

# Connections that cannot be made, and servers that are busy, are tried again.
RETRY = Retry(
    4,
    backoff_factor=0.5,
    status_forcelist=[429, 500, 502, 503, 504],
    raise_on_status=False,
    respect_retry_after_header=False,
)
TIMEOUT_S = (10, 60)  # to connect, and between two pieces
# How often in a row a connection may be cut without having brought anything.
FRUITLESS = 3
PAUSE_S = 1.0
PIECE_BYTES = 2**16  # so much of what a cut connection brought may be lost
CUT = (requests.exceptions.ChunkedEncodingError, requests.ConnectionError, requests.Timeout)


def fetch(url: str, sha256: str | None = None, on_bytes: OnBytes = lambda _done, _of: None) -> Path:
    """Return the file of a URL from the user's cache, fetching it if it is not there.

    A connection that is cut goes on where it ended, also in another process. What has another
    checksum than is stated is fetched anew.

    Args:
        url: of a file.
        sha256: of its content, in hexadecimal; None: any content will do.
        on_bytes: called with how many are there, and of how many if that is known.

    Raises:
        LoadError: it cannot be had, is another file than was meant, or nothing to be served.
    """
    path = cache_folder("downloads") / _file_name(url)
    with only_one(path, f"fetching {shown(url)}"):
        if not path.exists() or (sha256 is not None and digest_of(path) != sha256):
            part = path.with_name(f"{path.name}.part")
            _fetch(url, part, on_bytes)
            _check(part, url, sha256)
            part.replace(path)
            _validator_path(part).unlink(missing_ok=True)
            logger.info("fetched %s to %s", shown(url), path)
    return path


def _check(part: Path, url: str, sha256: str | None) -> None:
    """Keep only what was meant: a page of errors in its place must not stay."""
    try:
        check_digest(part, sha256, shown(url))
        recognise(part)
    except LoadError as error:
        part.unlink()
        raise LoadError(str(error).replace(str(part), shown(url))) from error


def _file_name(url: str) -> str:
    name = re.sub(r"[^\w.-]", "_", Path(urlsplit(url).path).name, flags=re.ASCII)
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name[-80:] or 'file'}"


def _fetch(url: str, part: Path, on_bytes: OnBytes) -> None:
    """Fetch a URL to a path, going on from what is there."""
    fruitless = 0
    with requests.Session() as session:
        adapter = HTTPAdapter(max_retries=RETRY)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.hooks["response"].append(_check_redirect)
        while fruitless < FRUITLESS:
            before = _size(part)
            try:
                with _answer(session, url, part) as response:
                    _receive(response, part, url, on_bytes)
            except CUT as error:
                fruitless = 0 if _size(part) > before else fruitless + 1
                cut = f"{shown(url)}: the connection was cut after {_size(part)} bytes: {error}"
                logger.warning("%s; going on", cut)
                time.sleep(PAUSE_S * fruitless)
            else:
                return
    raise LoadError(f"{cut}; what is there is kept, and another try goes on from it")


@contextmanager
def _answer(session: requests.Session, url: str, part: Path) -> Iterator[requests.Response]:
    """Ask for what is missing, or for all if there is no telling whether that is the same file."""
    headers = {"Accept-Encoding": "identity"}
    if _size(part) and (validator := _validator_path(part)).exists():
        headers["Range"] = f"bytes={_size(part)}-"
        headers["If-Range"] = validator.read_text(encoding="latin-1")
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise LoadError(
            f"{shown(url)} could not be fetched: {error}; fetch it where there is a network, and "
            f"name its path"
        ) from error
    with response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("there is less of the file than before")
        if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise LoadError(
                f"{shown(url)} was answered with {response.status_code} {response.reason}; check "
                f"the address, or fetch the file by other means and name its path"
            )
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise LoadError(
                f"{shown(url)} is sent in {encoding}, although it was asked for as it is; fetch it "
                f"by other means, and name its path"
            )
        yield response


def _receive(response: requests.Response, part: Path, url: str, on_bytes: OnBytes) -> None:
    """Append what a server sends to what is there, or begin anew."""
    goes_on = response.status_code == requests.codes.partial_content
    start = _size(part) if goes_on else 0
    if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        part.unlink(missing_ok=True)
        raise requests.ConnectionError("the server went on from another place than asked for")
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    _remember_validator(response, part)
    try:
        with part.open("ab" if goes_on else "wb") as file, _progress(url, start, total) as advance:
            for piece in response.iter_content(PIECE_BYTES):
                file.write(piece)
                advance(len(piece))
                on_bytes(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
    except requests.RequestException:
        raise
    except OSError as error:
        raise LoadError(f"{part} cannot be written: {error}; make room for it") from error
    if total is not None and _size(part) != total:
        part.unlink()
        raise LoadError(f"{shown(url)} has {_size(part)} bytes, and was announced with {total}")


def _check_redirect(response: requests.Response, **_: Any) -> None:
    if not response.is_redirect:
        return
    target = urljoin(response.url, response.headers["location"])
    downgraded = response.url.startswith("https:") and not target.startswith("https:")
    if downgraded or not is_safe(target):
        response.close()
        raise LoadError(f"{shown(response.url)} leads to {shown(target)}, which is not https")


def _remember_validator(response: requests.Response, part: Path) -> None:
    """Keep what tells this file from a later one of the same URL (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "W/")
    validator = response.headers.get("Last-Modified") if tag.startswith("W/") else tag
    if validator is None:
        _validator_path(part).unlink(missing_ok=True)
    else:
        _validator_path(part).write_text(validator, encoding="latin-1")


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


@contextmanager
def _progress(url: str, start: int, total: int | None) -> Iterator[Any]:
    """Show on a terminal how far it is; elsewhere, log that it has begun."""
    console = Console(stderr=True)
    if not console.is_terminal:
        size = "" if total is None else f", {total / 1e6:.1f} MB"
        logger.info("fetching %s%s", shown(url), size)
        yield lambda _bytes: None
        return
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    name = Path(urlsplit(url).path).name
    label = TextColumn("{task.description}", markup=False)
    with Progress(label, BarColumn(), *columns, console=console) as progress:
        task = progress.add_task(name, total=total, completed=start)
        yield lambda count: progress.advance(task, count)

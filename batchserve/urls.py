"""Which URLs a model may come from: pure."""

import ipaddress
import re
from urllib.parse import urlsplit

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(source: str) -> bool:
    """Whether a source begins as a URL does, of whatever scheme."""
    return SCHEME.match(source) is not None


def is_safe(url: str) -> bool:
    """Whether nobody on the way can put another file in the place of this one."""
    parts = urlsplit(url)
    if parts.scheme == "http":
        return _is_loopback(parts.hostname)
    return parts.scheme == "https" and bool(parts.hostname)


def shown(source: str) -> str:
    """Return a source as it may be shown: a URL without user, password and query."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False

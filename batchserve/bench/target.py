"""Where a server is, and how to reach it."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batchserve.errors import BatchserveError, ConfigError

PORTS = {"http": 80, "https": 443}


class TargetError(BatchserveError):
    """A server is not there, or does not answer as it would have to; the message says which."""


@dataclass(frozen=True)
class Target:
    """A server, and a path on it.

    Attributes:
        scheme: http or https.
        host: a name or an address.
        port: of TCP.
        path: with its query.
        unix_socket: that is connected to, instead of host and port.
        cacert: a PEM file with who signs the server's certificate; None: the system knows.
    """

    scheme: str
    host: str
    port: int
    path: str
    unix_socket: str | None = None
    cacert: str | None = None

    @classmethod
    def parse(
        cls, url: str, unix_socket: Path | None = None, cacert: Path | None = None
    ) -> "Target":
        """Read `http://HOST:PORT/PATH`, `https://…`, `HOST:PORT/PATH` or `unix:SOCKET`.

        Raises:
            ConfigError: it is none of these.
        """
        if url.startswith("unix:"):
            url, unix_socket = "http://localhost/", Path(url.removeprefix("unix:"))
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in PORTS or not parts.hostname or port == 0:
            raise ConfigError(f"{url} is no address; write http://HOST:PORT/PATH or unix:SOCKET")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or PORTS[parts.scheme],
            path=path,
            unix_socket=None if unix_socket is None else str(unix_socket),
            cacert=None if cacert is None else str(cacert),
        )

    def at(self, path: str) -> "Target":
        """Return another path of the same server."""
        return replace(self, path=path)

    @property
    def authority(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        place = f"{self.scheme}://{self.authority}{self.path}"
        return place if self.unix_socket is None else f"{place} on unix:{self.unix_socket}"

    def tls(self) -> ssl.SSLContext | None:
        """Return how the server is known to be itself; None: it need not be.

        Raises:
            ConfigError: the certificates cannot be read.
        """
        if self.scheme == "http":
            return None
        try:
            return ssl.create_default_context(cafile=self.cacert)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--cacert {self.cacert}: {error}; name a PEM file") from None

    async def connect(
        self, make: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None
    ) -> None:
        """Connect a protocol to the server.

        Raises:
            OSError: it is not there.
        """
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": context}
        if context is not None:
            options["server_hostname"] = self.host
        if self.unix_socket is not None:
            await loop.create_unix_connection(make, self.unix_socket, **options)
        else:
            await loop.create_connection(make, self.host, self.port, **options)

    def open(self, timeout_s: float) -> socket.socket:
        """Return a connected socket, for what need not be fast; it blocks.

        Raises:
            OSError: the server is not there.
        """
        context = self.tls()
        plain = self._open(timeout_s)
        if context is None:
            return plain
        try:
            return context.wrap_socket(plain, server_hostname=self.host)
        except OSError:
            plain.close()
            raise

    def _open(self, timeout_s: float) -> socket.socket:
        if self.unix_socket is None:
            return socket.create_connection((self.host, self.port), timeout_s)
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(timeout_s)
            made.connect(self.unix_socket)
        except OSError:
            made.close()
            raise
        return made

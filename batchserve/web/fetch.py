"""Fetch what a client names by its address, and nothing that the operator would not want fetched.

Which hosts are allowed, the operator says. Which network address a host has is looked at where the
socket for it is made, so that neither a redirect nor another answer of the DNS leads elsewhere.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from http import HTTPStatus

from aiohttp import (
    AddrInfoType,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    hdrs,
)
from aiohttp.abc import AbstractResolver
from yarl import URL

from batchserve import __version__
from batchserve.addresses import AllowedHosts, is_reachable
from batchserve.config import FetchConfig
from batchserve.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    RequestError,
    TooLarge,
)

# Files that are fetched at the same time, by one worker.
AT_ONCE = 16
MOST_PER_REQUEST = 64
MOST_REDIRECTS = 5
CHUNK_BYTES = 64 * 1024
# Characters of what somebody else wrote, in a message.
MOST_SHOWN = 100
SCHEMES = ("http", "https")
REDIRECTS = {
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.SEE_OTHER,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
}
# Nothing is unpacked: a few bytes could become many.
HEADERS = {hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: f"batchserve/{__version__}"}


class UnreachableError(OSError):
    """A host has an address that is not to be connected to."""


class Room:
    """The bytes that the files of one request may still have together."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = self._left = most_bytes

    def take(self, size: int) -> None:
        """Raise TooLarge if there is no room for so many more."""
        self._left -= size
        if self._left < 0:
            raise TooLarge(
                f"what is to be fetched is over the limit of max_body_mb="
                f"{self._most_bytes / 2**20:g}"
            )


class Fetcher:
    """Fetches files from the hosts that are allowed.

    Args:
        config: from where, and for how long.
        most_bytes: of the files of one request together.
        resolver: of host names; None: the system's.
    """

    def __init__(
        self, config: FetchConfig, most_bytes: int, resolver: AbstractResolver | None = None
    ) -> None:
        self._config = config
        self._allowed = AllowedHosts(config.hosts)
        self._most_bytes = most_bytes
        self._session = ClientSession(
            connector=TCPConnector(
                limit=AT_ONCE,
                resolver=resolver,
                use_dns_cache=False,
                socket_factory=self._open_socket,
            ),
            headers=HEADERS,
            cookie_jar=DummyCookieJar(),
            # Ours counts redirects, too.
            timeout=ClientTimeout(),
            trust_env=False,
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def fetch_all(
        self, addresses: Mapping[int, str], media_types: Sequence[str], *, of: int
    ) -> dict[int, bytes]:
        """Return the files that a request names.

        Args:
            addresses: by the index of the input.
            media_types: that a file may have; `image/*` stands for all images.
            of: how many inputs the request has; of several, an error names its own.

        Raises:
            TooLarge: there are too many, or they are too large together.
            RequestError: of the first that cannot be had, as of `fetch`.
        """
        if len(addresses) > MOST_PER_REQUEST:
            raise TooLarge(
                f"the request names {len(addresses)} addresses; at most {MOST_PER_REQUEST} are "
                f"fetched for one"
            )
        room = Room(self._most_bytes)
        fetching = [
            asyncio.ensure_future(
                self._fetch_input(index if of > 1 else None, address, media_types, room)
            )
            for index, address in addresses.items()
        ]
        try:
            files = await asyncio.gather(*fetching)
        finally:
            # If one cannot be had, the others are for nothing.
            for future in fetching:
                future.cancel()
        return dict(zip(addresses, files, strict=True))

    async def fetch(self, address: str, media_types: Sequence[str], room: Room) -> bytes:
        """Return one file.

        Raises:
            Forbidden: nobody has allowed this host, or the network it is in.
            InvalidInput: it is no address of the web, or there is no such file.
            TooLarge: there is no room for it.
            DeadlineExceeded: it takes too long.
        """
        timeout_ms = self._config.timeout_ms
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._follow(address, media_types, room)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the address was not fetched within server.fetch.timeout_ms={timeout_ms:g}"
            ) from None
        except ClientError as error:
            raise _explained(error) from None

    async def _fetch_input(
        self, index: int | None, address: str, media_types: Sequence[str], room: Room
    ) -> bytes:
        try:
            return await self.fetch(address, media_types, room)
        except RequestError as error:
            if index is None:
                raise
            raise type(error)(f"inputs[{index}]: {error}") from None

    async def _follow(self, address: str, media_types: Sequence[str], room: Room) -> bytes:
        url = self._checked(address)
        for _ in range(1 + MOST_REDIRECTS):
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status not in REDIRECTS:
                    return await _read(response, media_types, room)
                location = response.headers.get(hdrs.LOCATION, "")
            url = self._checked(location, url)
        raise InvalidInput(f"the address leads over more than {MOST_REDIRECTS} redirects")

    def _checked(self, address: str, base: URL | None = None) -> URL:
        """Return an address, or where `base` redirects to, if the operator allows it."""
        if not self._allowed:
            raise Forbidden(
                "this server fetches nothing; its operator can name hosts in server.fetch.hosts"
            )
        try:
            url = URL(address) if base is None else base.join(URL(address))
        except ValueError:
            raise InvalidInput("the address cannot be read; write https://host/path") from None
        if url.scheme not in SCHEMES or not url.raw_host or url.port is None:
            raise InvalidInput("the address is none of the web; write https://host/path")
        if url.raw_user is not None or url.raw_password is not None:
            raise InvalidInput("the address holds a name or a password, which are not sent")
        host = url.raw_host.rstrip(".")
        if not self._allowed.admits(host, url.port):
            raise Forbidden(
                f"this server does not fetch from {host[:MOST_SHOWN]!r}, port {url.port}; its "
                f"operator can name it in server.fetch.hosts"
            )
        return url.with_host(host)

    def _open_socket(self, address: AddrInfoType) -> socket.socket:
        """Return a socket for a connection; what it is connected to is looked at here."""
        family, kind, protocol, _, (host, *_) = address
        if not is_reachable(str(host), self._config.networks):
            raise UnreachableError(host)
        return socket.socket(family, kind, protocol)


async def _read(response: ClientResponse, media_types: Sequence[str], room: Room) -> bytes:
    if response.status != HTTPStatus.OK:
        raise InvalidInput(f"the address answers with status {response.status}")
    kind = response.content_type
    if not any(fnmatch(kind, accepted) for accepted in media_types):
        raise InvalidInput(
            f"the address names a file of type {kind[:MOST_SHOWN]!r}; read are "
            f"{', '.join(media_types)}"
        )
    if response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise InvalidInput("the address answers with a compressed file, which is not unpacked")
    chunks = []
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        room.take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _explained(error: ClientError) -> RequestError:
    """Return what a client may know of a failure."""
    match error:
        case ClientConnectorError(os_error=UnreachableError()):
            return Forbidden(
                "the address is of a host in a private network; this server's operator can allow "
                "that in server.fetch.networks"
            )
        case ClientConnectorDNSError():
            return InvalidInput("the address is of a host that is not known")
        case ClientSSLError():
            return InvalidInput("the address is of a host whose certificate is not trusted")
        case ClientConnectorError():
            return InvalidInput("the address is of a host that cannot be reached")
    return InvalidInput("the address is of a host that broke off, or does not speak HTTP")

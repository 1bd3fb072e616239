"""What is sent, as it goes over the wire."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field

from batchserve import __version__
from batchserve.bench.target import Target, TargetError

AGENT = f"batchserve-bench/{__version__}"


@dataclass(frozen=True)
class Request:
    """A request to a server.

    Attributes:
        method: of HTTP.
        body: may be empty.
        headers: beside Host, User-Agent and Content-Length, or instead of them.
        name: what people call it.
    """

    method: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def wire(self, target: Target) -> bytes:
        """Return the bytes to send."""
        headers = {"host": target.authority, "user-agent": AGENT}
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            headers["content-length"] = str(len(self.body))
        headers |= {name.lower(): value for name, value in self.headers.items()}
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"{self.method} {target.path} HTTP/1.1\r\n{''.join(lines)}\r\n"
        return head.encode("latin-1") + self.body


@dataclass(frozen=True)
class Reply:
    """A server's answer; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP


def ask(target: Target, request: Request, timeout_s: float) -> Reply:
    """Send one request, and return its answer; it blocks.

    Raises:
        TargetError: there is none.
    """
    try:
        with target.open(timeout_s) as sock:
            sock.sendall(request.wire(target))
            response = http.client.HTTPResponse(sock, method=request.method)
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, headers, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise TargetError(f"{target} does not answer: {error or type(error).__name__}") from None

"""A real HTTP server that behaves as badly as some do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Site:
    """What it serves, and how.

    Attributes:
        files: by path.
        requests: the headers of each, in order of arrival.
        cut_after: how many bytes of a body the next answers bring before the connection is cut.
        statuses: of the next answers, instead of the file.
        headers: of all answers.
        ranges: whether it goes on from where it is asked to.
        etag: what tells a file from a later one; None: nothing does.
        redirects: by path.
    """

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = '"one"'
    redirects: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, content: bytes) -> str:
        """Serve a file, and return its URL."""
        self.files[f"/{name}"] = content
        return f"http://127.0.0.1:{self.port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, path = self.site, unquote(self.path.partition("?")[0])
        site.requests.append(dict(self.headers.items()))
        if site.statuses:
            self._answer(site.statuses.pop(0), b"", {})
        elif path in site.redirects:
            self._answer(302, b"", {"Location": site.redirects[path]})
        elif path not in site.files:
            self._answer(404, b"not here", {})
        else:
            self._send_file(site.files[path])

    def _send_file(self, content: bytes) -> None:
        site = self.site
        validator = {"ETag": site.etag} if site.etag else {}
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") == site.etag
        if not (asked and site.ranges and same):
            self._answer(200, content, validator)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        range_ = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206, content[start:], {**validator, "Content-Range": range_})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        stated = {"Content-Length": str(len(body)), **headers, **self.site.headers}
        for name, value in stated.items():
            self.send_header(name, value)
        self.end_headers()
        # What it has said of the length is not so.
        self.close_connection = "Content-Length" in self.site.headers
        if self.site.cut_after and status in (200, 206):
            self.wfile.write(body[: self.site.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Site]:
    """Serve on a free port, in a thread, until the end."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield site
        server.shutdown()
        thread.join()

from typing import Any

import pytest

from batchserve.batch import Priority
from batchserve.config import ServerConfig
from batchserve.web.fast_path.head import Head, read_head
from batchserve.web.terms import Stated

OPEN = ServerConfig()
KEY = "a-key-of-somebody-1"
LENGTH = "Content-Length: 5"


def head(
    *lines: str, start: str = "POST /predict HTTP/1.1", kind: str = "application/json"
) -> bytes:
    stated = [start, "Host: here", f"Content-Type: {kind}", *(lines or [LENGTH])]
    return ("\r\n".join(stated) + "\r\n\r\n").encode("latin-1")


async def test_what_it_says():
    data = head(
        LENGTH,
        "X-Request-Id: mine",
        "X-Request-Timeout-Ms: 250",
        "X-Priority: bulk",
        "X-Forwarded-For: 10.0.0.1, 192.0.2.7",
        "Connection: close",
        start="POST /models/tiny/versions/7b/predict HTTP/1.1",
    )
    assert read_head(data, OPEN) == Head(
        path="/models/tiny/versions/7b/predict",
        name="tiny",
        version="7b",
        size=5,
        stated=Stated(250.0, Priority.BULK),
        request_id="mine",
        http="1.1",
        keep_alive=False,
        forwarded_for="192.0.2.7",
    )


@pytest.mark.parametrize(
    ("http", "connection", "keep_alive"),
    [
        ("1.1", "close", False),
        ("1.1", "keep-alive", True),
        ("1.0", "close", False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "of no meaning", False),
    ],
)
async def test_whether_the_connection_goes_on(http, connection, keep_alive):
    data = head(LENGTH, f"Connection: {connection}", start=f"POST /predict HTTP/{http}")
    found = read_head(data, OPEN)
    assert found is not None
    assert (found.http, found.keep_alive) == (http, keep_alive)


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        ("/predict", None, None),
        ("/models/a.b_c-1/predict", "a.b_c-1", None),
        ("/models/tiny/versions/1/predict", "tiny", "1"),
    ],
)
async def test_whom_it_names(path, name, version):
    found = read_head(head(start=f"POST {path} HTTP/1.1"), OPEN)
    assert found is not None
    assert (found.name, found.version, found.keep_alive) == (name, version, True)


@pytest.mark.parametrize(
    "data",
    [
        head(start="GET /predict HTTP/1.1"),
        head(start="HEAD /predict HTTP/1.1"),
        head(start="POST /predict HTTP/0.9"),
        head(start="POST /predict HTTP/2.0"),
        head(start="POST /predict?top_k=1 HTTP/1.1"),
        head(start="POST /predict? HTTP/1.1"),
        head(start="POST /predict#x HTTP/1.1"),
        head(start="POST /predict/ HTTP/1.1"),
        head(start="POST //predict HTTP/1.1"),
        head(start="POST /pr%65dict HTTP/1.1"),
        head(start="POST http://here/predict HTTP/1.1"),
        head(start="POST /models/tiny/none HTTP/1.1"),
        head(start="POST /predict"),
        head(start="not HTTP at all"),
        head(kind="application/msgpack"),
        head(kind="text/plain"),
        head(kind="multipart/form-data; boundary=B"),
        head("Accept: application/x-npy", LENGTH),
        head("Accept: text/html", LENGTH),
        head("Expect: 100-continue", LENGTH),
        head("Content-Encoding: gzip", LENGTH),
        head("Connection: Upgrade", "Upgrade: websocket", LENGTH),
        head("X-Priority: urgent", LENGTH),
        head("X-Request-Timeout-Ms: 0", LENGTH),
    ],
)
async def test_what_is_not_a_plain_prediction(data):
    assert read_head(data, OPEN) is None


@pytest.mark.parametrize(
    "lines",
    [
        ["X-None: of a length"],
        ["Content-Length: 0"],
        ["Content-Length: 05"],
        ["Content-Length: +5"],
        ["Content-Length: -5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 99999999999999999999"],
        [LENGTH, LENGTH],
        [LENGTH, "Content-Length: 6"],
        ["Transfer-Encoding: chunked"],
        [LENGTH, "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: identity", LENGTH],
        ["Content-Length : 5"],
        ["Content-Length:\r\n 5"],
        [LENGTH, "X-Folded: a\r\n b"],
        [LENGTH + "\nX-Bare: newline"],
        [LENGTH + "\n\nPOST /predict HTTP/1.1"],
        [LENGTH + "\n\r\nPOST /predict HTTP/1.1"],
        [LENGTH + "\rX-Bare: return"],
        [LENGTH, "X-Null: \0"],
        [LENGTH, "no colon"],
        [LENGTH, ": no name"],
        [LENGTH, *["X-Many: x"] * 200],
    ],
)
async def test_what_another_server_might_read_otherwise(lines):
    assert read_head(head(*lines), OPEN) is None


@pytest.mark.parametrize("shown", [f"X-API-Key: {KEY}", f"Authorization: Bearer {KEY}"])
async def test_who_shows_a_key(shown):
    keys: Any = [KEY]
    server = ServerConfig(api_keys=keys)
    assert read_head(head(shown, LENGTH), server) is not None
    assert read_head(head(shown + "x", LENGTH), server) is None
    assert read_head(head(LENGTH), server) is None

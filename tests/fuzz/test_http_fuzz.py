"""Bodies, headers, bytes of any kind: answered as documented or closed, and never hanging."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgpack
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchserve.web.v2.tensors import KNOWN
from tests.fuzz.live import EXAMPLES, Live, check, parse

THINK_S = 0.1  # some of the bytes are the beginning of a request

often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

PATHS = [
    *("/predict", "/models/colour/predict", "/models/tiny/versions/1/predict"),
    *("/models/none/predict", "/models/tiny/versions/2/predict", "/numbers-or-none", "/colours"),
    *("/v2/models/tiny/infer", "/v2/models/colour/infer", "/v2/repository/index"),
    *("/v1/models/colour:predict", "/v1/models/tiny:predict"),
    *("/predictions/colour", "/predictions/tiny/1"),
]
KINDS = [
    *("application/json", "image/png", "application/octet-stream", "text/plain", "application/x"),
    *("multipart/form-data; boundary=B", "multipart/form-data", "application/json; charset=utf-16"),
    *("application/msgpack", "application/x-npy"),
]
ACCEPTED = ["application/json", "application/msgpack", "application/x-npy", "*/*", "text/html"]
ADDRESSES = [
    *("http://127.0.0.1:9/x", "http://localhost/x", "http://LOCALHOST./x", "http://[::1]/x"),
    *("https://example.org/x", "file:///etc/passwd", "http://a@localhost/", "http://localhost:22/"),
]
# What a header may hold: no control characters, and nothing outside latin-1.
header_text = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_categories=["Cc"]), max_size=50
)
numbers = st.floats() | st.integers() | st.integers(min_value=-(10**400), max_value=10**400)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
addresses = (st.sampled_from(ADDRESSES) | st.text()).map(lambda url: {"url": url})
tensors = st.lists(st.floats(width=32) | numbers, max_size=12)
json_inferences = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.just("input"),
                    "shape": st.lists(st.integers(1, 3), max_size=3),
                    "datatype": st.sampled_from(["FP32", "INT64", "BOOL", "BYTES"]),
                    "data": tensors | values,
                }
            ),
            max_size=2,
        )
    }
)
instances = st.fixed_dictionaries(
    {"instances": st.lists(tensors | values | st.fixed_dictionaries({"b64": values}), max_size=3)}
)
json_bodies = st.one_of(
    st.fixed_dictionaries({"input": tensors | values}),
    st.fixed_dictionaries({"inputs": st.lists(tensors, max_size=6) | values}),
    st.fixed_dictionaries({"input_batch": st.lists(tensors, max_size=6) | values}),
    st.fixed_dictionaries({"input": addresses}),
    st.fixed_dictionaries({"inputs": st.lists(addresses | values, max_size=3)}),
    json_inferences,
    instances,
    values,
)
form_parts = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *('name="file"', 'name="file"; filename="a.png"', 'name="data"', "name="),
                *('name="file"\r\nContent-Transfer-Encoding: base64', "\r\nX: y", ""),
                'name="file"\r\nContent-Type: multipart/mixed; boundary=C',
                'name="file"\r\nContent-Encoding: gzip',
            ]
        ),
        st.binary(max_size=50),
    ),
    max_size=4,
)


def form(parts: list[tuple[str, bytes]]) -> bytes:
    heads = [
        (f"--B\r\nContent-Disposition: form-data; {head}\r\n\r\n", data) for head, data in parts
    ]
    return b"".join(head.encode() + data + b"\r\n" for head, data in heads) + b"--B--\r\n"


integers = st.integers(-(2**63), 2**64 - 1)
arrays = st.fixed_dictionaries(
    {"nd": st.booleans()},
    optional={
        "type": st.sampled_from(["<f4", "|O", "u1", ">i8", "<M8[s]", "f7", "", "V0"]) | st.text(),
        "shape": st.lists(integers, max_size=4) | st.text(max_size=3),
        "data": st.binary(max_size=16),
        "kind": st.sampled_from([b"", b"O", b"V"]),
    },
).map(lambda array: {name.encode(): value for name, value in array.items()})
packable = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | st.text(max_size=9) | st.binary() | arrays,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
packed_bodies = st.one_of(
    st.fixed_dictionaries({"input": packable}),
    st.fixed_dictionaries({"inputs": st.lists(packable, max_size=4) | arrays}),
    packable,
).map(msgpack.packb)
npy_bodies = st.builds(
    lambda descr, order, shape, data: npy(
        f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}}}", data
    ),
    st.sampled_from(["<f4", "|O", "u1", ">i8", "<U2", "<M8[s]", "V0"]) | st.text(max_size=5),
    st.booleans(),
    st.lists(integers | st.integers(0, 3), max_size=4).map(tuple) | st.text(max_size=5),
    st.binary(max_size=40),
)
bodies = st.one_of(
    packed_bodies,
    npy_bodies,
    st.binary(max_size=300),
    json_bodies.map(lambda value: json.dumps(value).encode()),
    form_parts.map(form),
    st.integers(0, 100_000).map(lambda depth: b'{"input": ' + b"[" * depth + b"]" * depth + b"}"),
    st.just(b" " * 400_000),
)


def npy(header: str, data: bytes) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": bytes,
    "gzip, gzip": bytes,
}


@st.composite
def encoded(draw: Any) -> tuple[bytes, bytes]:
    """Return a Content-Encoding header, or nothing, and a body that is most often of it."""
    stated, actual = draw(st.sampled_from([*ENCODINGS])), draw(st.sampled_from([*ENCODINGS]))
    body = draw(bodies)
    if draw(st.booleans()):
        actual = stated
    header = f"\r\nContent-Encoding: {stated}".encode() if stated else b""
    return header, ENCODINGS[actual](body)


def in_chunks(body: bytes, sizes: list[int]) -> bytes:
    chunks = []
    for size in sizes:
        chunk, body = body[:size], body[size:]
        chunks.append(chunk)
    chunks.append(body)
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return framed + b"0\r\n\r\n"


def head_of(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers]).encode("latin-1")


@often
@given(
    path=st.sampled_from(PATHS),
    kind=st.sampled_from(KINDS) | header_text,
    body=encoded(),
    chunks=st.none() | st.lists(st.integers(1, 50), max_size=5),
    accept=st.sampled_from(ACCEPTED) | header_text,
)
def test_any_body(
    server: Live, path: str, kind: str, body: tuple[bytes, bytes], chunks: Any, accept: str
):
    header, content = body
    if chunks is None:
        framing = f"Content-Length: {len(content)}"
    else:
        framing, content = "Transfer-Encoding: chunked", in_chunks(content, chunks)
    head = head_of(path, f"Content-Type: {kind}", framing, f"Accept: {accept}")
    answer = server.request(head + header, content)
    if answer is not None:
        check(answer)


@often
@given(url=st.sampled_from(ADDRESSES) | st.text(), more=st.sampled_from(["", "&url=x", "&top_k=0"]))
@example(url="http://localhost/\r\nX: y", more="")
def test_any_address(server: Live, url: str, more: str):
    query = quote(url.encode("utf-8", "surrogatepass"))
    answer = server.request(
        f"GET /models/colour/predict?url={query}{more} HTTP/1.1\r\nHost: x".encode()
    )
    assert answer is not None
    check(answer)
    assert answer.status in {400, 403, 422}


@st.composite
def inferences(draw: Any) -> tuple[str, bytes]:
    """Return the length of the JSON and a body whose tensors, most of them good, are behind it."""
    parts, data = [], b""
    for name in draw(st.lists(st.sampled_from(["input", "input", "x"]), min_size=1, max_size=2)):
        shape = draw(
            st.just([1, 10]) | st.just([2]) | st.lists(st.integers(-1, 3) | st.just(2**63 - 1))
        )
        datatype = draw(st.sampled_from([*KNOWN, "FP32", "FP8"]))
        content = draw(st.binary(max_size=80) | st.just(bytes(40)) | st.just(b"\1\0\0\0a" * 2))
        size = draw(st.just(len(content)) | st.integers(-1, 100) | st.just(2**63))
        parameters = draw(st.just({"binary_data_size": size}) | st.just({}) | values)
        part = {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters}
        parts.append(part | draw(st.just({}) | st.fixed_dictionaries({"data": values})))
        data += content
    rest = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "id": values,
                "outputs": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.just("output")},
                        optional={
                            "parameters": st.fixed_dictionaries(
                                {},
                                optional={
                                    "binary_data": st.booleans() | values,
                                    "classification": st.integers(-1, 2**63) | values,
                                },
                            )
                        },
                    ),
                    max_size=2,
                ),
                "parameters": st.fixed_dictionaries(
                    {},
                    optional={
                        "binary_data_output": st.booleans(),
                        "priority": st.integers() | values,
                        "timeout": st.integers(0, 10**8) | numbers,
                    },
                ),
            },
        )
    )
    header = json.dumps({"inputs": parts, **rest}).encode()
    length = draw(
        st.just(str(len(header)))
        | st.integers(0, len(header) + len(data) + 5).map(str)
        | header_text
        | st.just("0")
    )
    return length, header + data


@often
@given(path=st.sampled_from(["tiny", "colour", "numbers"]), sent=inferences())
def test_any_tensors(server: Live, path: str, sent: tuple[str, bytes]):
    length, content = sent
    head = head_of(
        f"/v2/models/{path}/infer",
        f"Content-Length: {len(content)}",
        f"Inference-Header-Content-Length: {length}",
    )
    answer = server.request(head, content)
    if answer is not None:
        check(answer)


timeouts = st.sampled_from(["1", "0.001", "1e9", "1e308", "1e999", "-0", "0x10", "1_000", "٣"])


@often
@given(
    timeout=header_text | timeouts.filter(str.isascii) | numbers.map(str),
    priority=header_text | st.integers().map(str) | st.sampled_from(["bulk", "BULK", "²", "0"]),
    request_id=header_text,
    query=header_text.map(lambda text: text.replace(" ", "+")),
)
@example(timeout="1e308", priority="1", request_id="", query="")
@example(timeout="5000", priority="²", request_id="", query="")
@example(timeout="5000", priority="9" * 5000, request_id="", query="")
def test_any_header_and_query(
    server: Live, timeout: str, priority: str, request_id: str, query: str
):
    body = b'{"input": [1, 2]}'
    head = head_of(
        f"/models/numbers/predict{'?' + query if query else ''}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-Timeout-Ms: {timeout}",
        f"X-Priority: {priority}",
        f"X-Request-Id: {request_id}",
    )
    answer = server.request(head, body)
    if answer is not None:
        check(answer)


@often
@given(
    path=st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=40),
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "TRACE", "CONNECT", "X"]),
    query=st.sampled_from(["", "?last=1", "?last=", "?last=²", "?top_k=1&top_k=2", "?%ff"]),
)
@example(path="debug/batches", method="GET", query="?last=" + "9" * 5000)
@example(path="docs/static/..%2f..%2fkeys", method="GET", query="")
@example(path="docs/static/%00", method="GET", query="")
def test_any_path(server: Live, path: str, method: str, query: str):
    received = server.exchange(
        f"{method} /{path}{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(
            "latin-1"
        )
    )
    if received and method not in ("HEAD", "CONNECT"):
        check(parse(received))


GOOD = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b'Content-Length: 16\r\n\r\n{"input": [1.5]}'
)
CHUNKED = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


@st.composite
def damaged(draw: Any) -> bytes:
    """Return a good request, some bytes of which were cut, replaced, added or repeated."""
    data = GOOD
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        data = data[:start] + draw(st.binary(max_size=10) | st.just(data[:end])) + data[end:]
    return data


malformed = st.one_of(
    st.binary(max_size=500),
    damaged(),
    st.integers(1, 20).map(lambda times: GOOD * times),
    st.sampled_from(
        [
            b"",
            b"\r\n" * 100,
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2_000 + b"\r\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"0\r\n\r\n",
            CHUNKED + b"ffffffffffffffffff\r\n",
            CHUNKED + b"zz\r\n\r\n",
            CHUNKED + b"5\r\nhello",
            b"POST /predict HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\nhello",
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        ]
    ),
)


@often
@given(sent=malformed)
def test_any_bytes(server: Live, sent: bytes):
    received = server.exchange(sent, THINK_S)
    assert b"Traceback" not in received
    assert b'File "' not in received
    assert b"internal_error" not in received

"""Which of our types a client likes best."""

import pytest

from batchserve.web.accept import preferred

JSON, MSGPACK, NPY = "application/json", "application/msgpack", "application/x-npy"
OFFERED = (JSON, MSGPACK, NPY)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (MSGPACK, MSGPACK),
        ("Application/MsgPack", MSGPACK),
        (f"{MSGPACK}, {JSON}", JSON),  # equals: ours is the order
        (f"{JSON};q=0.5, {MSGPACK}", MSGPACK),
        (f"{JSON} ; q=0.5 , {MSGPACK};q=0.9, {NPY};q=0.8", MSGPACK),
        (f"{NPY}, */*;q=0.1", NPY),
        # What is named more precisely counts, wherever it stands.
        (f"*/*, {JSON};q=0", MSGPACK),
        (f"{JSON};q=0, application/*;q=0.2, */*", MSGPACK),
        (f"application/*;q=0.5, {NPY};q=0.6", NPY),
        # Browsers.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        (f"text/html, {MSGPACK};q=0.001", MSGPACK),
        (f"{JSON};charset=utf-8;q=0.9, {NPY};q=0.8", JSON),
        # Malformed elements are passed over, and a header of nothing else is none.
        (f"{MSGPACK};q=2, {NPY}", NPY),
        (f"{MSGPACK};q=high, {NPY};q=0.1", NPY),
        (f"json, {NPY}", NPY),
        ("json", JSON),
        (",,;,", JSON),
        ("*", JSON),
        (f"{MSGPACK};q=0.1234", JSON),
    ],
)
def test_the_type_with_the_greatest_weight(accept, chosen):
    assert preferred(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    "accept", ["text/html", "image/*", "*/*;q=0", f"{JSON};q=0.0", "application/*;q=0, text/*"]
)
def test_nothing_that_is_offered(accept):
    assert preferred(accept, OFFERED) is None

import inspect
import re

import pytest

from batchserve import errors
from batchserve.errors import BatchserveError, RequestError, StartupError, Unavailable

CLASSES = {
    name: found
    for name, found in inspect.getmembers(errors, inspect.isclass)
    if found.__module__ == errors.__name__
}
REQUEST_ERRORS = [
    found
    for found in CLASSES.values()
    if issubclass(found, RequestError) and found is not RequestError
]
# Programs match these: a change here breaks clients.
PROMISED = {
    "BadRequest": (400, "bad_request"),
    "Unauthorized": (401, "unauthorized"),
    "Forbidden": (403, "forbidden"),
    "NotFound": (404, "not_found"),
    "MethodNotAllowed": (405, "method_not_allowed"),
    "NotAcceptable": (406, "not_acceptable"),
    "Conflict": (409, "conflict"),
    "TooLarge": (413, "too_large"),
    "UnsupportedMedia": (415, "unsupported_media_type"),
    "InvalidInput": (422, "invalid_input"),
    "LoadFailed": (422, "load_failed"),
    "ModelFailed": (500, "model_failed"),
    "InternalError": (500, "internal_error"),
    "Unavailable": (503, "unavailable"),
    "QueueFull": (503, "queue_full"),
    "Overloaded": (503, "overloaded"),
    "Draining": (503, "draining"),
    "NotReady": (503, "model_not_ready"),
    "StoreUnavailable": (503, "store_unavailable"),
    "DeadlineExceeded": (504, "deadline_exceeded"),
}


def _drawn() -> dict[str, tuple[str | None, int | None]]:
    """Read the docstring's tree: each class's parent, and its status where one is written."""
    path: list[str] = []
    tree: dict[str, tuple[str | None, int | None]] = {}
    branch = re.compile(r"(?P<indent>(?:[│ ]   )*(?:[├└]── )?)(?P<name>[A-Z]\w+)(?P<rest>.*)")
    lines = (errors.__doc__ or "").splitlines()
    for line in lines[lines.index("BatchserveError") :]:
        found = branch.fullmatch(line)
        assert found, f"no branch of a tree: {line!r}"
        depth = len(found["indent"]) // 4
        path[depth:] = [found["name"]]
        status = re.match(r"\s+(\d{3})\b", found["rest"])
        tree[found["name"]] = (path[depth - 1] if depth else None, status and int(status[1]))
    return tree


def test_the_tree_names_every_class_and_no_other():
    assert set(_drawn()) == set(CLASSES)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"BatchserveError"}))
def test_the_tree_hangs_each_class_below_its_parent(name):
    parent, _ = _drawn()[name]
    assert CLASSES[name].__bases__[0].__name__ == parent


@pytest.mark.parametrize("found", REQUEST_ERRORS, ids=lambda found: found.__name__)
def test_the_tree_shows_the_status_that_clients_get(found):
    parent, status = _drawn()[found.__name__]
    if status is None:
        assert parent is not None
        _, status = _drawn()[parent]
    assert found.status == status


def test_every_request_error_keeps_its_promised_status_and_code():
    actual = {found.__name__: (found.status, found.code) for found in REQUEST_ERRORS}
    assert actual == PROMISED


def test_no_two_request_errors_share_a_code():
    codes = [found.code for found in REQUEST_ERRORS]
    assert sorted(set(codes)) == sorted(codes)


@pytest.mark.parametrize("found", REQUEST_ERRORS, ids=lambda found: found.__name__)
def test_statuses_are_errors_and_codes_are_snake_case(found):
    assert 400 <= found.status < 600
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", found.code)


@pytest.mark.parametrize("found", CLASSES.values(), ids=lambda found: found.__name__)
def test_the_message_is_what_was_said(found):
    assert str(found("the queue is full")) == "the queue is full"


def test_what_the_operator_reads_and_what_the_client_reads_are_apart():
    for found in CLASSES.values():
        assert issubclass(found, BatchserveError)
        assert not (issubclass(found, StartupError) and issubclass(found, RequestError))


@pytest.mark.parametrize(
    "found", [Unavailable, *Unavailable.__subclasses__()], ids=lambda found: found.__name__
)
def test_unavailable_says_when_to_try_again(found):
    assert found("later").retry_after_s == 1
    assert found("later", retry_after_s=7).retry_after_s == 7

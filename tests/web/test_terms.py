"""What a request asks for beside its answer."""

import pytest

from batchserve.batch import Priority, Terms
from batchserve.errors import BadRequest
from batchserve.web.terms import PRIORITY, TIMEOUT, priority_of, read_terms, restated

NOW_S, DEFAULT_MS = 100.0, 30_000.0


def read(slo_ms: float | None = None, **headers: str) -> Terms:
    names = {"timeout": TIMEOUT, "priority": PRIORITY}
    stated = {names[name]: value for name, value in headers.items()}
    return read_terms(stated, NOW_S, DEFAULT_MS, slo_ms)


def test_who_states_nothing_is_promised_an_answer_by_the_default_deadline():
    assert read() == Terms(130.0, 130.0, Priority.NORMAL)


def test_a_stated_timeout_is_promise_and_deadline():
    assert read(timeout="250") == Terms(100.25, 100.25)
    assert read(timeout="0.5") == Terms(100.0005, 100.0005)


def test_a_models_promise_is_kept_with_time_for_the_way_and_its_deadline_stays_the_default():
    terms = read(slo_ms=100.0)
    assert terms.due_s == pytest.approx(100.090)
    assert terms.deadline_s == 130.0


@pytest.mark.parametrize("stated", ["20", "60000"])
def test_a_stated_timeout_comes_before_the_models_promise(stated):
    by_s = 100.0 + float(stated) / 1000
    assert read(slo_ms=100.0, timeout=stated) == Terms(by_s, by_s)


@pytest.mark.parametrize("stated", ["", "soon", "0", "-1", "nan", "inf", "1e999", "1 s"])
def test_a_timeout_that_is_no_number_above_zero_is_refused(stated):
    with pytest.raises(BadRequest, match=f"{TIMEOUT}: "):
        read(timeout=stated)


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ("interactive", Priority.INTERACTIVE),
        ("NORMAL", Priority.NORMAL),
        (" bulk ", Priority.BULK),
        ("0", Priority.NORMAL),
        ("1", Priority.INTERACTIVE),
        ("2", Priority.NORMAL),
        ("3", Priority.BULK),
        ("255", Priority.BULK),
    ],
)
def test_a_priority_is_a_name_or_a_level(stated, meant):
    assert read(priority=stated).priority is meant


@pytest.mark.parametrize("stated", ["", "urgent", "-1", "1.5", "²", "9" * 5000])
def test_a_priority_that_is_neither_is_refused(stated):
    with pytest.raises(BadRequest, match="none of interactive, normal, bulk"):
        read(priority=stated)


def test_levels_are_those_of_the_open_inference_protocol():
    assert [priority_of(level) for level in range(5)] == [
        Priority.NORMAL,
        Priority.INTERACTIVE,
        Priority.NORMAL,
        Priority.BULK,
        Priority.BULK,
    ]


def test_a_promise_is_postponed_up_to_the_deadline_and_a_stated_timeout_never():
    assert Terms(1.0, 5.0).postponed(2.0) == Terms(3.0, 5.0)
    assert Terms(1.0, 5.0).postponed(9.0) == Terms(5.0, 5.0)
    assert Terms(5.0, 5.0).postponed(2.0) == Terms(5.0, 5.0)


# What a body says more than the headers.

STATED = Terms(110.0, 130.0, Priority.BULK)


def test_a_body_that_says_nothing_leaves_the_terms_as_they_are():
    assert restated(STATED, NOW_S, 0, 0) == STATED


def test_a_timeout_of_the_body_is_promise_and_deadline():
    assert restated(STATED, NOW_S, 0, 250_000) == Terms(100.25, 100.25, Priority.BULK)


def test_a_priority_of_the_body():
    assert restated(STATED, NOW_S, 1, 0) == Terms(110.0, 130.0, Priority.INTERACTIVE)
    assert restated(STATED, NOW_S, 17, 1) == Terms(100.000001, 100.000001, Priority.BULK)

"""What workers decide together, and what each has to do by itself."""

import pytest

from batchserve.repository import State, operations
from batchserve.repository.reconcile import Held, advance, steps
from batchserve.repository.reports import counted
from batchserve.repository.wanted import FAILURES, HISTORY, Plan, Wanted, plan
from tests.repository.documents import BASE, report, targets

SECTION = {"source": "torchvision:resnet18"}
ALL = ("m:1@0=ready", "m:2@0=ready", "n:1@0=ready")
LOADING = operations.load(BASE, Wanted(), "m:3", SECTION, make_current=True)


# What they decide.


def test_nothing_is_decided_where_nothing_is_asked():
    assert advance(BASE, Wanted(), [report(*ALL)]) is None


def test_nothing_is_decided_while_nobody_serves():
    assert advance(BASE, LOADING, []) is None
    assert advance(BASE, LOADING, [report(*ALL, "m:3@1=ready", serving=False)]) is None


def test_a_version_is_loaded_when_every_worker_has_it_ready_and_only_then_current():
    one = report(*ALL, "m:3@1=ready", pid=1)
    assert advance(BASE, LOADING, [one, report(*ALL, "m:3@1=warming", pid=2)]) is None
    assert advance(BASE, LOADING, [one, report(*ALL, pid=2)]) is None
    both = [one, report(*ALL, "m:3@1=ready", pid=2)]
    settled = advance(BASE, LOADING, both)
    assert settled is not None
    assert targets(settled)[-1] == "m:3@1"
    assert settled.current == {}
    flipped = advance(BASE, settled, both)
    assert flipped is not None
    assert (flipped.current, flipped.upcoming) == ({"m": "3"}, {})
    assert flipped.history == {"m": ("1",)}
    assert advance(BASE, flipped, both) is None


def test_who_is_starting_is_not_waited_for():
    reports = [report(*ALL, "m:3@1=ready"), report("m:1@0=loading", pid=2, serving=False)]
    assert advance(BASE, LOADING, reports) is not None


@pytest.mark.parametrize("serving", [True, False])
def test_a_version_that_fails_in_one_worker_is_taken_back_everywhere(serving):
    reports = [
        report(*ALL, "m:3@1=ready"),
        report(*ALL, "m:3@1=failed", pid=2, serving=serving),
    ]
    back = advance(BASE, LOADING, reports)
    assert back is not None
    assert (back.changes, back.upcoming, back.current) == ({}, {}, {})
    (failure,) = back.failures
    assert (failure.key, failure.serial) == ("m:3", 1)
    assert failure.reason == "no such luck (worker 2 on h)"


def test_what_was_loaded_before_under_that_name_stays_if_its_replacement_fails():
    asked = operations.load(BASE, Wanted(), "m:1", SECTION, make_current=False)
    back = advance(BASE, asked, [report(*ALL, "m:1@1=failed")])
    assert back is not None
    assert targets(back) == ["m:1@0", "m:2@0", "n:1@0"]


def test_what_was_unloaded_is_so_again_if_its_loading_fails():
    unloaded = operations.unload(BASE, Wanted(), "m:2")
    asked = operations.load(BASE, unloaded, "m:2", None, make_current=False)
    back = advance(BASE, asked, [report(*ALL, "m:2@2=failed")])
    assert back is not None
    assert targets(back) == ["m:1@0", "n:1@0"]


def test_a_version_that_has_failed_does_not_become_current():
    asked = operations.make_current(BASE, Wanted(), "m:2")
    failed = report("m:1@0=ready", "m:2@0=failed", "n:1@0=ready")
    decided = advance(BASE, asked, [failed])
    assert decided is not None
    assert (decided.upcoming, decided.current) == ({}, {})


def test_a_version_that_is_gone_does_not_become_current():
    asked = operations.make_current(BASE, Wanted(), "m:2")
    decided = advance({"m:1": None}, asked, [report("m:1@0=ready")])
    assert decided is not None
    assert decided.upcoming == {}


def test_a_loading_whose_section_is_gone_with_the_config_file_is_given_up():
    asked = operations.load(BASE, Wanted(), "m:2", None, make_current=False)
    decided = advance({"m:1": None}, asked, [report("m:1@0=ready")])
    assert decided is not None
    assert decided.changes == {}
    assert decided.failures[0].reason == "the config file has it no more"


def test_the_past_is_bounded():
    wanted = Wanted()
    for number in range(2 * max(HISTORY, FAILURES)):
        wanted = operations.load(BASE, wanted, f"m:x{number}", SECTION, make_current=False)
        failed = advance(BASE, wanted, [report(*ALL, f"m:x{number}@{wanted.revision}=failed")])
        assert failed is not None
        wanted = operations.make_current(BASE, failed, f"m:{1 + number % 2}")
        flipped = advance(BASE, wanted, [report(*ALL)])
        assert flipped is not None
        wanted = flipped
    assert len(wanted.failures) == FAILURES
    assert len(wanted.history["m"]) == HISTORY


def test_what_a_reload_replaces_has_no_say_once_a_successor_serves():
    old, new = report(pid=1, generation=0), report(pid=2, generation=1)
    starting = report(pid=3, generation=2, serving=False)
    other = report(pid=1, generation=0, server="other machine")
    assert counted([old, starting]) == [old]
    assert counted([old, new, starting, other]) == [new, other]


# What one has to do.


def held(*versions: str) -> list[Held]:
    return [Held(v.key, v.serial, v.state) for v in report(*versions).versions]


def planned(*wanted: str, current: dict[str, str]) -> Plan:
    """Return a plan for `m:1@0` and so on."""
    document = Wanted(current=current)
    for version in wanted:
        key, _, serial = version.partition("@")
        document = document.model_copy(update={"revision": int(serial) - 1})
        document = operations.load({}, document, key, SECTION, make_current=False)
    return plan({}, document)


def test_a_worker_that_starts_loads_everything_and_knows_what_is_current():
    todo = steps(plan(BASE, Wanted(current={"m": "2"})), [], {})
    assert [target.key for target in todo.load] == list(BASE)
    assert todo.make_current == {"m": "2", "n": "1"}
    assert todo.unload == ()


def test_a_worker_in_line_with_the_plan_has_nothing_to_do():
    todo = steps(plan(BASE, Wanted()), held(*ALL), {"m": "1", "n": "1"})
    assert (todo.make_current, todo.unload, todo.load) == ({}, (), ())


def test_what_has_failed_is_not_tried_again():
    todo = steps(plan(BASE, Wanted()), held("m:1@0=failed", *ALL[1:]), {"m": "1", "n": "1"})
    assert todo.load == ()


def test_a_worker_answers_with_what_it_has_until_the_new_one_is_ready():
    wanted = planned("m:2@5", current={"m": "2"})
    for state in ("loading", "warming"):
        todo = steps(wanted, held("m:1@0=ready", f"m:2@5={state}"), {"m": "1"})
        assert (todo.make_current, todo.unload) == ({}, ())
    todo = steps(wanted, held("m:1@0=ready", "m:2@5=ready"), {"m": "1"})
    assert todo.make_current == {"m": "2"}
    assert todo.unload == (Held("m:1", 0, State.READY),)


def test_what_nobody_wants_goes_even_if_its_successor_has_failed_here():
    wanted = planned("m:2@5", current={"m": "2"})
    todo = steps(wanted, held("m:1@0=ready", "m:2@5=failed"), {"m": "1"})
    assert todo.unload == (Held("m:1", 0, State.READY),)


def test_a_replacement_takes_over_when_it_is_ready():
    wanted = planned("m:1@5", current={"m": "1"})
    todo = steps(wanted, held("m:1@0=ready"), {"m": "1"})
    assert (todo.unload, [target.serial for target in todo.load]) == ((), [5])
    todo = steps(wanted, held("m:1@0=ready", "m:1@5=ready"), {"m": "1"})
    assert todo.unload == (Held("m:1", 0, State.READY),)


def test_a_model_that_is_gone_is_unloaded_current_or_not():
    todo = steps(plan({"n:1": None}, Wanted()), held(*ALL), {"m": "1", "n": "1"})
    assert [version.key for version in todo.unload] == ["m:1", "m:2"]


def test_what_is_loading_and_not_wanted_any_more_goes():
    todo = steps(plan(BASE, Wanted()), held(*ALL, "m:3@1=loading"), {"m": "1", "n": "1"})
    assert todo.unload == (Held("m:3", 1, State.LOADING),)

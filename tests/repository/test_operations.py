"""What an operator's requests make of the document, and which are refused."""

from functools import partial

import pytest

from batchserve.errors import Conflict, NotFound
from batchserve.repository import operations
from batchserve.repository.reconcile import advance
from batchserve.repository.wanted import Base, Candidate, Wanted, in_words, plan
from tests.repository.documents import BASE, report, targets

SECTION = {"source": "torchvision:resnet18"}


def load(wanted: Wanted, key: str, section=None, *, make_current: bool = False) -> Wanted:
    return operations.load(BASE, wanted, key, section, make_current=make_current)


def agreed(wanted: Wanted) -> Wanted:
    """Return what becomes of a document when a worker has everything ready."""
    while True:
        ready = (f"{t.key}@{t.serial}=ready" for t in plan(BASE, wanted).targets)
        decided = advance(BASE, wanted, [report(*ready)])
        if decided is None:
            return wanted
        wanted = decided


def current(wanted: Wanted) -> dict[str, str]:
    return plan(BASE, wanted).current


def test_without_changes_it_is_as_in_the_config_file_the_first_version_being_current():
    assert targets(Wanted()) == ["m:1@0", "m:2@0", "n:1@0"]
    assert current(Wanted()) == {"m": "1", "n": "1"}
    assert in_words(Wanted()) == []


def test_a_new_version_is_loaded_beside_the_current_one():
    asked = load(Wanted(), "m:3", SECTION)
    assert targets(asked) == ["m:1@0", "m:2@0", "n:1@0", "m:3@1?"]
    assert plan(BASE, asked).targets[-1].section == SECTION
    settled = agreed(asked)
    assert targets(settled) == ["m:1@0", "m:2@0", "n:1@0", "m:3@1"]
    assert current(settled) == {"m": "1", "n": "1"}
    assert in_words(settled) == ["m:3 was loaded"]


def test_a_version_becomes_current_once_it_is_loaded():
    asked = load(Wanted(), "m:3", SECTION, make_current=True)
    assert current(asked)["m"] == "1"
    assert in_words(asked) == ["m:3 is being loaded", "m:3 becomes current"]
    assert current(agreed(asked))["m"] == "3"


def test_the_first_version_of_a_new_model_becomes_current():
    first = agreed(load(Wanted(), "o:7", SECTION))
    assert first.current == {"o": "7"}
    second = agreed(load(first, "o:8", SECTION))
    assert current(second)["o"] == "7"


def test_a_version_nobody_has_described_cannot_be_loaded():
    with pytest.raises(NotFound, match="no version '9' of 'm'; send its section as the body"):
        load(Wanted(), "m:9")


def test_loading_again_keeps_the_one_that_serves_until_the_other_is_ready():
    asked = load(Wanted(), "m:1")
    assert targets(asked) == ["m:1@0", "m:1@1?", "m:2@0", "n:1@0"]
    settled = agreed(asked)
    assert targets(settled) == ["m:1@1", "m:2@0", "n:1@0"]
    again = load(settled, "m:1", SECTION)
    assert targets(again)[:2] == ["m:1@1", f"m:1@{again.revision}?"]


def test_what_is_being_loaded_cannot_be_loaded_at_the_same_time():
    with pytest.raises(Conflict, match="m:3 is being loaded already"):
        load(load(Wanted(), "m:3", SECTION), "m:3", SECTION)


def test_a_version_of_the_config_file_is_unloaded_and_loaded_again():
    unloaded = operations.unload(BASE, Wanted(), "m:2")
    assert targets(unloaded) == ["m:1@0", "n:1@0"]
    assert in_words(unloaded) == ["m:2 was unloaded"]
    again = load(unloaded, "m:2")
    assert targets(again) == ["m:1@0", "m:2@2?", "n:1@0"]
    assert plan(BASE, again).targets[1].section is None


def test_a_version_that_came_over_http_is_gone_when_it_is_unloaded():
    loaded = agreed(load(Wanted(), "m:3", SECTION))
    unloaded = operations.unload(BASE, loaded, "m:3")
    assert unloaded.changes == {}
    with pytest.raises(NotFound, match="send its section"):
        load(unloaded, "m:3")


def test_a_version_that_is_unloaded_takes_its_loading_along():
    asked = load(Wanted(), "m:3", SECTION, make_current=True)
    unloaded = operations.unload(BASE, asked, "m:3")
    assert (unloaded.changes, unloaded.upcoming) == ({}, {})


def test_a_current_version_is_not_unloaded_while_there_are_others():
    with pytest.raises(Conflict, match="make another version of it current first: 2"):
        operations.unload(BASE, Wanted(), "m:1")
    assert targets(operations.unload(BASE, Wanted(), "n:1")) == ["m:1@0", "m:2@0"]


def test_a_model_is_unloaded_with_all_its_versions():
    loaded = agreed(load(Wanted(), "m:3", SECTION, make_current=True))
    unloaded = operations.unload_model(BASE, loaded, "m")
    assert targets(unloaded) == ["n:1@0"]
    assert (unloaded.current, unloaded.history) == ({}, {"m": ()})
    with pytest.raises(NotFound, match="no model 'm'; served are n"):
        operations.unload_model(BASE, unloaded, "m")


@pytest.mark.parametrize(
    ("key", "message"),
    [("x:1", "no model 'x'; served are m, n"), ("m:9", "no version '9'; it has 1, 2")],
)
def test_what_is_not_there_is_neither_unloaded_nor_made_current(key, message):
    for operation in (operations.unload, operations.make_current):
        with pytest.raises(NotFound, match=message):
            operation(BASE, Wanted(), key)


def test_going_back_goes_back_one_version_each_time():
    wanted = Wanted()
    for version in ("2", "1", "2"):
        wanted = agreed(operations.make_current(BASE, wanted, f"m:{version}"))
    assert wanted.history["m"] == ("1", "2", "1")
    seen = []
    for _ in range(3):
        wanted = agreed(operations.roll_back(BASE, wanted, "m"))
        seen.append(current(wanted)["m"])
    assert seen == ["1", "2", "1"]
    with pytest.raises(Conflict, match="no earlier version to go back to: 1 is the first"):
        operations.roll_back(BASE, wanted, "m")


def test_one_does_not_go_back_to_what_is_unloaded():
    wanted = agreed(load(Wanted(), "m:3", SECTION, make_current=True))
    wanted = agreed(operations.make_current(BASE, wanted, "m:2"))
    wanted = operations.unload(BASE, wanted, "m:3")
    assert current(agreed(operations.roll_back(BASE, wanted, "m")))["m"] == "1"


def test_a_model_that_is_not_there_is_not_rolled_back():
    with pytest.raises(NotFound, match="no model 'x'"):
        operations.roll_back(BASE, Wanted(), "x")


def test_making_current_what_is_current_leaves_no_trace():
    wanted = agreed(operations.make_current(BASE, Wanted(), "m:1"))
    assert wanted.history["m"] == ()


@pytest.mark.parametrize(
    ("base", "ignored", "planned"),
    [
        ({"n:1": None}, "m:2 is not in the config file any more, and so cannot be unloaded",
         ["n:1@0"]),
        ({"m:1": None}, "m:2 is gone, and so cannot be current", ["m:1@0"]),
        ({"m:1": None}, "m:2 is not in the config file any more, and so cannot be loaded again",
         ["m:1@0"]),
    ],
)  # fmt: skip
def test_a_change_that_makes_no_sense_any_more_is_ignored_in_words(base, ignored, planned):
    if "unloaded" in ignored:
        wanted = operations.unload(BASE, Wanted(), "m:2")
    elif "loaded again" in ignored:
        wanted = agreed(load(Wanted(), "m:2"))
    else:
        wanted = agreed(operations.make_current(BASE, Wanted(), "m:2"))
    assert ignored in plan(base, wanted).ignored
    assert targets(wanted, base) == planned


def test_a_document_survives_its_json():
    wanted = agreed(load(Wanted(), "m:3", SECTION, make_current=True))
    wanted = load(wanted, "m:3", {"source": "x.pt"})
    assert Wanted.model_validate_json(wanted.model_dump_json(exclude_defaults=True)) == wanted


# Candidates.

TRIED = Candidate(version="2", share=0.1)
LISTED: Base = {"m:1": None, "m:2": Candidate(version="2", shadow=True), "n:1": None}


def try_out(wanted: Wanted, candidate: Candidate = TRIED, base: Base = BASE) -> Wanted:
    return operations.set_candidate(base, wanted, "m", candidate)


def candidates(wanted: Wanted, base: Base = BASE) -> dict[str, Candidate]:
    return plan(base, wanted).candidates


def test_a_version_is_tried_in_another_way_and_no_more():
    wanted = try_out(Wanted())
    assert candidates(wanted) == {"m": TRIED}
    assert current(wanted)["m"] == "1"
    assert in_words(wanted) == ["m has the candidate 2, with 0.1 of the requests"]
    shadow = Candidate(version="2", shadow=True)
    wanted = try_out(wanted, shadow)
    assert candidates(wanted) == {"m": shadow}
    assert in_words(wanted) == ["m has the candidate 2, with 0 of the requests and copies of them"]
    wanted = operations.clear_candidate(BASE, wanted, "m")
    assert (candidates(wanted), wanted.candidates) == ({}, {})


def test_promoting_makes_it_current_and_ends_the_trial_at_once():
    asked = operations.promote(BASE, try_out(Wanted()), "m")
    # Until every worker has it ready, it is tried.
    assert (current(asked)["m"], candidates(asked)) == ("1", {"m": TRIED})
    decided = advance(BASE, asked, [report("m:1@0=ready", "m:2@0=ready", "n:1@0=ready")])
    assert decided is not None
    assert (current(decided)["m"], decided.candidates, decided.upcoming) == ("2", {}, {})
    assert current(agreed(operations.roll_back(BASE, decided, "m")))["m"] == "1"


def test_a_candidate_that_becomes_current_in_another_way_is_tried_no_more():
    wanted = agreed(operations.make_current(BASE, try_out(Wanted()), "m:2"))
    assert wanted.candidates == {}
    wanted = try_out(wanted, Candidate(version="1", share=1))
    assert agreed(operations.roll_back(BASE, wanted, "m")).candidates == {}


def test_a_candidate_stays_when_another_version_becomes_current():
    wanted = agreed(load(try_out(Wanted()), "m:3", SECTION, make_current=True))
    assert (current(wanted)["m"], candidates(wanted)) == ("3", {"m": TRIED})


@pytest.mark.parametrize(
    "unload",
    [
        partial(operations.unload, BASE, key="m:2"),
        partial(operations.unload_model, BASE, name="m"),
    ],
)
def test_what_is_unloaded_is_tried_no_more(unload):
    wanted = unload(wanted=try_out(Wanted()))
    assert wanted.candidates == {}
    assert candidates(agreed(load(wanted, "m:2"))) == {}


def test_the_config_files_candidate_is_tried_until_somebody_says_otherwise():
    assert candidates(Wanted(), LISTED) == {"m": Candidate(version="2", shadow=True)}
    cleared = operations.clear_candidate(LISTED, Wanted(), "m")
    assert (candidates(cleared, LISTED), cleared.candidates) == ({}, {"m": None})
    assert in_words(cleared) == ["m has no candidate"]
    again = try_out(cleared, base=LISTED)
    assert candidates(again, LISTED) == {"m": TRIED}
    unloaded = operations.unload(LISTED, Wanted(), "m:2")
    assert unloaded.candidates == {"m": None}


def test_the_config_files_candidate_does_not_come_back_after_it_was_current():
    asked = operations.promote(LISTED, Wanted(), "m")
    reports = [report("m:1@0=ready", "m:2@0=ready", "n:1@0=ready")]
    promoted = advance(LISTED, asked, reports)
    assert promoted is not None
    back = advance(LISTED, operations.roll_back(LISTED, promoted, "m"), reports)
    assert back is not None
    assert (plan(LISTED, back).current["m"], candidates(back, LISTED)) == ("1", {})


@pytest.mark.parametrize(
    ("candidate", "error", "message"),
    [
        ("9", NotFound, "model 'm' has no version '9'; it has 1, 2, 3"),
        ("1", Conflict, "m:1 is current; a candidate is tried beside"),
        ("3", Conflict, "m:3 is still being loaded"),
    ],
)
def test_what_cannot_be_tried_is_refused(candidate, error, message):
    wanted = load(Wanted(), "m:3", SECTION)
    with pytest.raises(error, match=message):
        try_out(wanted, Candidate(version=candidate))


@pytest.mark.parametrize("operation", [operations.promote, operations.clear_candidate])
def test_without_a_candidate_there_is_nothing_to_promote_or_to_clear(operation):
    with pytest.raises(Conflict, match="no candidate; PUT /admin/models/m/candidate names one"):
        operation(BASE, Wanted(), "m")
    with pytest.raises(NotFound, match="there is no model 'x'"):
        operation(BASE, Wanted(), "x")


def test_a_candidate_that_is_gone_is_ignored_in_words():
    planned = plan({"m:1": None}, try_out(Wanted()))
    assert planned.candidates == {}
    assert planned.ignored == ("m:2 is gone, and so cannot be a candidate",)


def test_a_document_with_candidates_survives_its_json():
    for wanted in (try_out(Wanted()), operations.clear_candidate(LISTED, Wanted(), "m")):
        assert Wanted.model_validate_json(wanted.model_dump_json(exclude_defaults=True)) == wanted

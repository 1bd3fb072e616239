"""Inputs that made a pass fail are known again, for a while."""

from batchserve.batching.quarantine import ALONE, FORGET_S, MOST_INPUTS, REFUSED, Quarantine


def test_the_innocent_are_not_known():
    quarantine = Quarantine()
    assert quarantine.offences(7, 0.0) == 0
    assert not quarantine


def test_once_is_alone_and_twice_is_refused():
    quarantine = Quarantine()
    quarantine.blame(7, 0.0)
    assert quarantine.offences(7, 1.0) == ALONE
    quarantine.succeeded(1.5)
    quarantine.blame(7, 2.0)
    assert quarantine.offences(7, 3.0) == REFUSED
    assert quarantine.offences(8, 3.0) == 0


def test_an_offence_is_forgotten_and_leaves_nothing():
    quarantine = Quarantine()
    quarantine.blame(7, 0.0)
    assert quarantine.offences(7, FORGET_S) == ALONE
    assert quarantine.offences(7, FORGET_S + 1) == 0
    assert len(quarantine) == 0


def test_time_counts_from_the_last_offence():
    quarantine = Quarantine()
    quarantine.blame(7, 0.0)
    quarantine.succeeded(1.0)
    quarantine.blame(7, FORGET_S - 1)
    assert quarantine.offences(7, FORGET_S + 1) == REFUSED


def test_after_it_was_forgotten_the_next_offence_is_the_first():
    quarantine = Quarantine()
    quarantine.blame(7, 0.0)
    quarantine.blame(7, 2 * FORGET_S)
    assert quarantine.offences(7, 2 * FORGET_S) == ALONE


def test_whoever_succeeds_is_absolved():
    quarantine = Quarantine()
    quarantine.blame(7, 0.0)
    quarantine.absolve(7)
    quarantine.absolve(8)
    assert quarantine.offences(7, 0.0) == 0
    assert not quarantine


def test_no_more_inputs_are_remembered_than_a_bound_and_the_last_ones_stay():
    quarantine = Quarantine()
    for fingerprint in range(2 * MOST_INPUTS):
        quarantine.blame(fingerprint, 0.0)
        quarantine.blame(-1, 0.0)
    assert len(quarantine) == MOST_INPUTS
    assert quarantine.offences(-1, 0.0) == ALONE
    assert quarantine.offences(2 * MOST_INPUTS - 1, 0.0) == ALONE
    assert quarantine.offences(0, 0.0) == 0


def test_where_nothing_succeeds_it_is_the_model_and_nobody_is_refused():
    quarantine = Quarantine()
    for number in range(5):
        quarantine.blame(7, float(number))
    assert quarantine.offences(7, 5.0) == ALONE


def test_whoever_never_comes_back_is_forgotten_too():
    quarantine = Quarantine()
    quarantine.blame(7, 0.0)
    quarantine.blame(8, 30.0)
    quarantine.forget(FORGET_S)
    assert len(quarantine) == 2
    quarantine.forget(FORGET_S + 1)
    assert len(quarantine) == 1
    quarantine.forget(FORGET_S + 31)
    assert not quarantine

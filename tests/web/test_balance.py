"""Who accepts a connection, and who lets go of some: decisions, on a clock of the test's."""

import copy

import pytest

from batchserve.crew import Crew
from batchserve.web.balance import (
    CHURN,
    FEW,
    PATIENCE_S,
    WINDOW_S,
    Surplus,
    Turn,
    choose,
    fair_share,
)


@pytest.fixture
def crews() -> list[Crew]:
    """Return what three workers have of their crew; none of them accepts yet."""
    master = Crew()
    workers = []
    for _ in range(3):
        master.reserve()
        workers.append(copy.copy(master))
    return workers


def test_whoever_is_alone_accepts_everything(crews):
    turn = Turn(crews[0])
    assert all(turn.share(connections, 1, 0.0) for connections in range(20))


def test_whoever_has_the_fewest_accepts(crews):
    turn = Turn(crews[0])
    crews[1].look(3)
    crews[2].look(5)
    assert [turn.share(connections, 1, 0.0) for connections in (2, 3, 4, 5, 6)] == [
        *(1, 1),
        *(0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("own", "others", "waiting", "share"),
    [
        (0, [], 7, 7),
        (0, [0], 32, 16),
        (0, [0], 1, 1),
        (5, [4], 1, 0),
        (4, [5], 1, 1),
        (4, [5], 3, 2),
        (5, [4], 3, 1),
        (1, [2, 0], 1, 0),
        (1, [2, 0], 3, 1),
        (10, [0, 0], 9, 0),
        (0, [10, 0], 9, 5),
        (0, [10, 0], 25, 12),
        (10, [0, 0], 26, 2),
        (2**30, [3], 5, 0),
        (2**30, [2**30], 5, 3),
    ],
)
def test_all_come_to_have_as_many(own, others, waiting, share):
    assert fair_share(own, others, waiting) == share


def test_of_many_that_wait_a_worker_takes_its_share_at_once(crews):
    turn = Turn(crews[0])
    crews[1].look(2)
    assert turn.share(0, 20, 0.0) == 11


def test_the_others_learn_how_many_there_are(crews):
    Turn(crews[0]).share(7, 1, 0.0)
    assert [other.connections for other in crews[1].others().values()] == [7]


def test_somebody_who_does_not_come_is_not_waited_for_again(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    assert not turn.share(1, 1, 10.0)
    assert not turn.share(1, 1, 10.0 + 0.9 * PATIENCE_S)
    assert turn.share(1, 1, 10.0 + PATIENCE_S)
    assert turn.share(2, 1, 11.0)
    assert turn.share(3, 1, 12.0)


def test_who_has_looked_again_is_waited_for_again(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    turn.share(1, 1, 10.0)
    assert turn.share(1, 1, 10.0 + PATIENCE_S)
    turn.has_accepted(1, 2, 10.0 + PATIENCE_S)
    assert turn.share(2, 1, 11.0)
    crews[1].look(0)
    assert not turn.share(2, 1, 11.0)


def test_a_third_one_is_waited_for_while_a_second_one_is_stuck(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    turn.share(1, 1, 10.0)
    assert turn.share(1, 1, 10.0 + PATIENCE_S)
    turn.has_accepted(1, 2, 10.0 + PATIENCE_S)
    crews[2].look(0)
    assert not turn.share(2, 1, 11.0)


def test_each_connection_has_a_patience_of_its_own(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    assert not turn.share(1, 1, 10.0)
    turn.was_anothers()
    assert not turn.share(1, 1, 10.0 + PATIENCE_S)


def test_short_connections_are_accepted_by_whoever_has_time(crews):
    turn = Turn(crews[0])
    crews[1].look(2)
    for _ in range(CHURN * (3 + FEW) + 1):
        assert turn.share(1, 1, 0.0)
        turn.has_accepted(1, 2, 0.0)
    assert turn.share(3, 1, 0.0)
    assert turn.share(3, 1, WINDOW_S)
    assert turn.share(3, 1, 1.9 * WINDOW_S)
    # When they have become fewer, each counts again.
    assert not turn.share(3, 1, 3 * WINDOW_S)


def test_what_others_accept_does_not_count(crews):
    turn = Turn(crews[0])
    crews[1].look(2)
    assert all(turn.share(1, 1, 0.0) for _ in range(CHURN * (3 + FEW) + 1))
    assert not turn.share(3, 1, 0.0)


def test_what_was_accepted_is_told(crews):
    turn = Turn(crews[0])
    turn.share(0, 1, 0.0)
    turn.has_accepted(1, 1, 0.0)
    assert [other.connections for other in crews[1].others().values()] == [1]


def test_many_that_come_at_once_and_stay_are_no_short_ones(crews):
    turn = Turn(crews[0])
    for connections in range(500):
        crews[1].look(connections)
        assert turn.share(connections, 1, 0.0)
        turn.has_accepted(1, connections + 1, 0.0)
    assert not turn.share(500, 1, 0.0)


@pytest.mark.parametrize(
    ("own", "others", "surplus"),
    [
        (32, [], 0),
        (32, [0], 16),
        (32, [16, 0], 16),
        (16, [32, 0], 0),
        (9, [7], 0),
        (2, [0], 0),
        (3, [0], 1),
        (3, [1], 0),
        (0, [0], 0),
        (0, [9], 0),
    ],
)
def test_whoever_has_far_more_than_others_lets_go_of_what_is_above_the_mean(
    crews, own, others, surplus
):
    for crew, connections in zip(crews[1:], others, strict=False):
        crew.look(connections)
    assert Surplus(crews[0]).count(own) == surplus


def test_nothing_is_let_go_of_for_somebody_who_is_stuck(crews):
    found = Surplus(crews[0])
    crews[1].look(0)
    assert found.count(32) == 16
    assert found.count(32) == 0
    crews[1].look(0)
    assert found.count(32) == 16


def test_those_that_were_chosen_stay_so():
    among = list(range(100))
    first = choose(set(), 10, among)
    assert len(set(first)) == 10
    assert set(first) <= set(choose(set(first), 20, among))
    assert set(choose(set(first), 5, among)) <= set(first)


def test_those_that_are_gone_are_chosen_no_more():
    assert sorted(choose({7, 8, 9}, 3, [1, 2, 9])) == [1, 2, 9]
    assert choose({7, 8}, 3, []) == []


def test_whoever_is_first_is_not_always_chosen():
    assert len({tuple(choose(set(), 1, [1, 2, 3])) for _ in range(200)}) == 3

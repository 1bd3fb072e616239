"""Who accepts a connection, and who lets go of some: decisions, on a clock of the test's."""

import copy

import pytest

from batchserve.crew import Crew
from batchserve.web.balance import CHURN, FEW, PATIENCE_S, WINDOW_S, Surplus, Turn


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
    assert all(turn.has_come(connections, 0.0) for connections in range(20))


def test_whoever_has_the_fewest_accepts(crews):
    turn = Turn(crews[0])
    crews[1].look(3)
    crews[2].look(5)
    assert [turn.has_come(connections, 0.0) for connections in (2, 3, 4, 5, 6)] == [
        *(True, True),
        *(False, False, False),
    ]


def test_the_others_learn_how_many_there_are(crews):
    Turn(crews[0]).has_come(7, 0.0)
    assert [other.connections for other in crews[1].others().values()] == [7]


def test_somebody_who_does_not_come_is_not_waited_for_again(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    assert not turn.has_come(1, 10.0)
    assert not turn.has_come(1, 10.0 + 0.9 * PATIENCE_S)
    assert turn.has_come(1, 10.0 + PATIENCE_S)
    assert turn.has_come(2, 11.0)
    assert turn.has_come(3, 12.0)


def test_who_has_looked_again_is_waited_for_again(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    turn.has_come(1, 10.0)
    assert turn.has_come(1, 10.0 + PATIENCE_S)
    crews[1].look(0)
    assert not turn.has_come(2, 11.0)


def test_a_third_one_is_waited_for_while_a_second_one_is_stuck(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    turn.has_come(1, 10.0)
    assert turn.has_come(1, 10.0 + PATIENCE_S)
    crews[2].look(0)
    assert not turn.has_come(2, 11.0)


def test_each_connection_has_a_patience_of_its_own(crews):
    turn = Turn(crews[0])
    crews[1].look(0)
    assert not turn.has_come(1, 10.0)
    turn.was_anothers()
    assert not turn.has_come(1, 10.0 + PATIENCE_S)


def test_short_connections_are_accepted_by_whoever_has_time(crews):
    turn = Turn(crews[0])
    crews[1].look(2)
    come = CHURN * (3 + FEW) + 1
    assert all(turn.has_come(1, 0.0) for _ in range(come))
    assert turn.has_come(3, 0.0)
    assert turn.has_come(3, WINDOW_S)
    assert turn.has_come(3, 1.9 * WINDOW_S)
    # When they have become fewer, each counts again.
    assert not turn.has_come(3, 3 * WINDOW_S)


def test_many_that_come_at_once_and_stay_are_no_short_ones(crews):
    turn = Turn(crews[0])
    for connections in range(500):
        crews[1].look(connections)
        assert turn.has_come(connections, 0.0)
    assert not turn.has_come(500, 0.0)


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
    assert Surplus(crews[0]).now(own) == surplus


def test_nothing_is_let_go_of_for_somebody_who_is_stuck(crews):
    found = Surplus(crews[0])
    crews[1].look(0)
    assert found.now(32) == 16
    assert found.now(32) == 0
    crews[1].look(0)
    assert found.now(32) == 16

"""What the workers of a server know of its reloads."""

import copy
import os

import pytest

from batchserve.lineage import GENERATIONS, Lineage


def fork(master: Lineage) -> Lineage:
    """Return what a worker has that is forked now: a copy of everything but the shared memory."""
    return copy.copy(master)


def test_without_a_reload_nobody_follows():
    worker = fork(Lineage())
    worker.announce_ready()
    assert (worker.superseded, worker.expects_successor, worker.followed) == (False, False, False)


def test_a_successor_is_awaited_until_it_is_ready():
    master = Lineage()
    old = fork(master)
    master.announce_generation()
    new = fork(master)
    assert (old.expects_successor, old.followed) == (True, False)
    assert not new.superseded
    new.announce_ready()
    assert (old.expects_successor, old.followed) == (False, True)


def test_after_a_failed_reload_the_successor_of_the_next_one_counts():
    master = Lineage()
    old = fork(master)
    master.announce_generation()
    master.announce_generation()
    late, new = fork(master), fork(master)
    late.generation = 1
    late.announce_ready()
    assert old.expects_successor
    assert late.expects_successor
    new.announce_ready()
    assert old.followed
    assert late.followed


def test_nobody_is_awaited_when_the_server_stops():
    master = Lineage()
    old = fork(master)
    master.announce_generation()
    master.announce_stop()
    assert old.superseded
    assert not old.expects_successor


def test_ever_ready_outlasts_reloads():
    master = Lineage()
    assert not master.ever_ready
    fork(master).announce_ready()
    master.announce_generation()
    assert fork(master).ever_ready


def test_any_number_of_reloads():
    master = Lineage()
    for _ in range(GENERATIONS + 2):
        old = fork(master)
        master.announce_generation()
        assert old.expects_successor
        fork(master).announce_ready()
        assert old.followed


def test_processes_share_it():
    master = Lineage()
    child = os.fork()
    if child == 0:
        master.announce_ready()
        os._exit(0)
    os.waitpid(child, 0)
    assert master.ever_ready


def test_the_first_that_cannot_start_ends_the_server():
    master = Lineage()
    one, other = fork(master), fork(master)
    assert one.claim_end()
    assert not other.claim_end()
    assert one.claim_end()


@pytest.mark.parametrize(
    ("generation", "reached", "workers", "covered"),
    [
        (0, [], 2, False),  # the first start: nobody answers yet
        (0, [True], 2, True),  # its neighbour has everything
        (0, [True], 1, False),  # it had everything itself, and is gone
        (0, [False], 2, False),  # its neighbour lacks something, too
        (0, [False, True], 2, True),
        (0, [True, False], 2, True),
        (1, [], 1, True),  # a reload: the old workers answer
        (1, [False], 2, False),
    ],
)
def test_whether_others_answer_better_if_a_model_fails_here(generation, reached, workers, covered):
    lineage = Lineage()
    for _ in range(generation):
        lineage.announce_generation()
    for complete in reached:
        lineage.announce_ready(complete=complete)
    assert lineage.is_covered(workers) is covered


def test_every_master_has_a_name_of_its_own():
    assert Lineage().server != Lineage().server

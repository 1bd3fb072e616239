"""What the workers of a server tell each other of their connections."""

import copy

from batchserve.crew import PLACES, Crew


def fork(master: Crew) -> tuple[Crew, int]:
    """Return what a worker has that is forked now, and its place."""
    place = master.reserve()
    return copy.copy(master), place


def counts(worker: Crew) -> list[int]:
    return [other.connections for other in worker.others().values()]


def test_each_sees_the_others_and_not_itself():
    master = Crew()
    workers = [fork(master)[0] for _ in range(3)]
    for connections, worker in enumerate(workers):
        worker.look(connections)
    assert [counts(worker) for worker in workers] == [[1, 2], [0, 2], [0, 1]]


def test_whoever_does_not_accept_is_not_seen():
    master = Crew()
    (one, _), (other, _) = fork(master), fork(master)
    assert counts(one) == []
    other.look(5)
    assert counts(one) == [5]
    other.close()
    assert counts(one) == []


def test_a_worker_that_is_no_more_is_forgotten_and_its_place_taken():
    master = Crew()
    (one, _), (other, place) = fork(master), fork(master)
    other.look(5)
    master.release(place)
    assert counts(one) == []
    successor, successors = fork(master)
    assert successors == place
    assert counts(one) == []
    successor.look(0)
    assert counts(one) == [0]


def test_a_look_is_noticed():
    master = Crew()
    (one, _), (other, place) = fork(master), fork(master)
    other.look(5)
    before = one.others()[place]
    other.look(5)
    assert one.others()[place].looks == before.looks + 1


def test_there_may_be_more_workers_than_places():
    master = Crew()
    places = [master.reserve() for _ in range(PLACES + 2)]
    assert places == [*range(PLACES), PLACES - 1, PLACES - 1]

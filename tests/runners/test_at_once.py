"""A pass on several threads at the same time."""

import threading
import time

import pytest
import torch

from batchserve.runners.at_once import AtOnce

ITEMS = [torch.ones(3)]


def test_passes_run_at_the_same_time():
    together = threading.Barrier(3)

    def forward(items):
        together.wait(10)
        return list(items)

    at_once = AtOnce(forward, 3)
    assert at_once(ITEMS) == ITEMS
    at_once.close()


def test_a_single_one_runs_on_the_callers_thread():
    seen = AtOnce(lambda _: [threading.current_thread()], 1)(ITEMS)
    assert seen == [threading.current_thread()]


def test_each_batch_gets_its_own_rows():
    at_once = AtOnce(lambda items: [2 * item for item in items], 2)
    one, two = (torch.tensor(number) for number in (1, 2))
    assert at_once.each([[one], [two, one]]) == [[2], [4, 2]]
    at_once.close()


@pytest.mark.parametrize("streams", [1, 2])
def test_a_pass_is_timed_beside_the_others(streams):
    lock = threading.Lock()

    def forward(items):
        with lock:
            time.sleep(0.05)
        return [*items]

    at_once = AtOnce(forward, streams)
    # They hold each other up.
    assert at_once.seconds(ITEMS) > 0.035 * streams
    at_once.close()


def test_an_error_comes_through_when_all_have_ended():
    ended, failed = threading.Event(), threading.Event()

    def forward(items):
        if items:
            assert failed.wait(10)
            ended.set()
            return items
        failed.set()
        raise ValueError("no")

    at_once = AtOnce(forward, 2)
    with pytest.raises(ValueError, match="no"):
        at_once.each([[], ITEMS])
    assert ended.is_set()
    at_once.close()


def test_its_threads_share_no_work_and_end():
    threads = set()

    def forward(items):
        threads.add(threading.current_thread())
        assert torch.get_num_threads() == 1
        return items

    at_once = AtOnce(forward, 2)
    at_once(ITEMS)
    at_once.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()

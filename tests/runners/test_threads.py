"""How many cores a pass uses."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from batchserve.batching.knee import powers_of_two
from batchserve.runners.forward import Forward
from batchserve.runners.threads import REQUEST_S, choose_threads, seconds_of_batch
from batchserve.tasks.tensor import TensorTask
from tests.runners.takes import Takes

ITEMS = [torch.ones(3)] * 4
MOST = 2


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def forward_of(module: nn.Module, threads: int = MOST, **kwargs) -> Forward:
    device, dtype = torch.device("cpu"), torch.float32
    return Forward(module, TensorTask(), device, dtype, threads=threads, **kwargs)


def test_threads_that_make_a_pass_faster_are_used():
    assert choose_threads(forward_of(Takes({1: 0.04, 2: 0.02})), ITEMS) == MOST


@pytest.mark.parametrize("together_s", [0.02, 0.2])
def test_threads_that_do_not_are_left_to_others(together_s):
    assert choose_threads(forward_of(Takes({1: 0.02, 2: together_s})), ITEMS) == 1


def test_cores_that_a_pass_takes_are_missed_by_the_requests():
    alone_s = len(ITEMS) * REQUEST_S * 10
    # Faster by a third, but with all cores for as long as that.
    assert choose_threads(forward_of(Takes({1: alone_s, 2: alone_s * 0.66})), ITEMS) == MOST
    items = ITEMS * 20
    assert choose_threads(forward_of(Takes({1: alone_s, 2: alone_s * 0.66})), items) == 1


@pytest.mark.parametrize(
    ("threads", "pass_s", "requests_s", "cores", "expected_s"),
    [
        (1, 4.0, 1.0, 2, 4.0),  # the pass, on its one core
        (1, 1.0, 4.0, 2, 4.0),  # the loop, on its own
        (2, 4.0, 1.0, 2, 4.5),  # both, on all
        (2, 4.0, 1.0, 16, 4.0),
    ],
)
def test_whatever_takes_longest_decides(threads, pass_s, requests_s, cores, expected_s):
    assert seconds_of_batch(threads, pass_s, requests_s, cores) == expected_s


def test_one_thread_needs_no_trial():
    module = Takes({})
    assert choose_threads(forward_of(module, threads=1), ITEMS) == 1
    assert not module.seen


def test_of_several_numbers_the_fewest_that_pay_are_used():
    seconds = {1: 0.04, 2: 0.02, 4: 0.018}
    assert choose_threads(forward_of(Takes(seconds), threads=4), ITEMS, [2]) == 2
    assert powers_of_two(6) == [1, 2, 4, 6]
    assert powers_of_two(1) == [1]

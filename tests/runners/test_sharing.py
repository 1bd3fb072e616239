"""How passes share the cores."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from batchserve.batching.knee import powers_of_two
from batchserve.runners.forward import Forward
from batchserve.runners.sharing import REQUEST_S, Sharing, choose_sharing, seconds_of_batch, use
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
    assert choose_sharing(forward_of(Takes({1: 0.04, 2: 0.02})), ITEMS) == (1, MOST, MOST)


@pytest.mark.parametrize("together_s", [0.02, 0.2])
def test_threads_that_do_not_are_left_to_others(together_s):
    assert choose_sharing(forward_of(Takes({1: 0.02, 2: together_s})), ITEMS) == (1, 1, 1)


def test_cores_that_a_pass_takes_are_missed_by_the_requests():
    alone_s = len(ITEMS) * REQUEST_S * 10
    # Faster by a third, but with all cores for as long as that.
    module = Takes({1: alone_s, 2: alone_s * 0.66})
    assert choose_sharing(forward_of(module), ITEMS).threads == MOST
    assert choose_sharing(forward_of(module), ITEMS * 20).threads == 1


@pytest.mark.parametrize(
    ("streams", "threads", "pass_s", "requests_s", "cores", "expected_s"),
    [
        (1, 1, 4.0, 1.0, 2, 4.0),  # the pass, on its one core
        (1, 1, 1.0, 4.0, 2, 4.0),  # the loop, on its own
        (1, 2, 4.0, 1.0, 2, 4.5),  # both, on all
        (1, 2, 4.0, 1.0, 16, 4.0),
        (2, 1, 4.0, 1.0, 2, 2.5),  # two passes at once, and the loop between them
        (2, 1, 4.0, 1.0, 16, 2.0),
        (4, 2, 4.0, 0.5, 8, 1.0625),
    ],
)
def test_whatever_takes_longest_decides(streams, threads, pass_s, requests_s, cores, expected_s):
    assert seconds_of_batch(streams, threads, pass_s, requests_s, cores) == expected_s


def test_one_thread_needs_no_trial():
    module = Takes({})
    assert choose_sharing(forward_of(module, threads=1), ITEMS, at_once=True) == (1, 1, 1)
    assert not module.seen


def test_of_several_numbers_the_fewest_that_pay_are_used():
    seconds = {1: 0.04, 2: 0.02, 4: 0.018}
    assert choose_sharing(forward_of(Takes(seconds), threads=4), ITEMS, [2]) == (1, 2, 2)
    assert powers_of_two(6) == [1, 2, 4, 6]
    assert powers_of_two(1) == [1]


@pytest.mark.parametrize(
    ("cores", "pass_s", "chosen"),
    [
        (2, {(1, 1): 0.030, (1, 2): 0.016, (2, 1): 0.030}, (2, 1, 2)),
        # A little slower, and faster once the server is busy.
        (2, {(1, 1): 0.030, (1, 2): 0.0155, (2, 1): 0.0350}, (2, 1, 2)),
        # Threads that share a pass are faster.
        (2, {(1, 1): 0.030, (1, 2): 0.012, (2, 1): 0.030}, (1, 2, 2)),
        # A lone pass gains nothing from a second core.
        (2, {(1, 1): 0.030, (1, 2): 0.030, (2, 1): 0.032}, (2, 1, 1)),
        # Passes hold each other up, at the GIL or at the memory.
        (2, {(1, 1): 0.030, (1, 2): 0.030, (2, 1): 0.055}, (1, 1, 1)),
        # Four are hardly faster than two, and each batch would wait longer.
        (4, {(1, 1): 0.040, (1, 4): 0.015, (4, 1): 0.040, (2, 2): 0.0205}, (2, 2, 4)),
        (4, {(1, 1): 0.040, (1, 4): 0.015, (4, 1): 0.040, (2, 2): 0.030}, (4, 1, 4)),
        # Where reading and answering decides, all are as fast: whoever needs the fewest cores.
        (4, {(1, 1): 3e-4, (1, 4): 3e-4, (4, 1): 3e-4, (2, 2): 3e-4}, (4, 1, 1)),
        (4, {(1, 1): 3e-4, (1, 4): 1e-4, (4, 1): 3e-4, (2, 2): 1.5e-4}, (2, 2, 4)),
    ],
)
def test_several_passes_run_at_the_same_time_where_that_is_no_slower(
    monkeypatch, cores, pass_s, chosen
):
    monkeypatch.setattr(
        "batchserve.runners.sharing._timed",
        lambda _forward, _items, ways: {way: pass_s[way] for way in ways},
    )
    forward = forward_of(Takes({cores: 0.0}), threads=cores)
    assert choose_sharing(forward, ITEMS[:1], at_once=True) == chosen


@pytest.mark.parametrize(("longest_s", "streams"), [(0.05, 2), (0.03, 1)])
def test_passes_keep_the_time_that_a_promise_leaves(monkeypatch, longest_s, streams):
    pass_s = {(1, 1): 0.03, (1, 2): 0.02, (2, 1): 0.032}
    monkeypatch.setattr("batchserve.runners.sharing._timed", lambda *_: pass_s)
    forward = forward_of(Takes({2: 0.0}))
    sharing = choose_sharing(forward, ITEMS[:1], at_once=True, longest_s=longest_s)
    assert sharing.streams == streams


class Sleeps(nn.Module):
    """Takes as long as the test says, and lets others run meanwhile."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return batch


class Holds(Sleeps):
    """Lets nobody run meanwhile."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.lock = threading.Lock()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        with self.lock:
            return super().forward(batch)


@pytest.mark.parametrize(("make", "streams"), [(Sleeps, 2), (Holds, 1)])
def test_it_is_really_measured(make, streams):
    assert choose_sharing(forward_of(make(0.03)), ITEMS, at_once=True) == (streams, 1, 1)


def test_nobody_runs_at_the_same_time_who_may_not():
    assert choose_sharing(forward_of(Sleeps(0.01)), ITEMS) == (1, 1, 1)


def test_passes_so_short_that_the_loop_decides_run_one_by_one():
    forward = forward_of(Sleeps(0.0005))
    assert choose_sharing(forward, ITEMS * 8, at_once=True) == (1, 1, 1)


@pytest.mark.parametrize(
    ("sharing", "text"),
    [
        (Sharing.by_one(1), "one batch at a time, on 1 core"),
        (Sharing(2, 1, 1), "2 batches at the same time, each on 1 core"),
        (Sharing(4, 2, 8), "4 batches at the same time, each on 2 cores, a lone one on 8"),
    ],
)
def test_the_log_says_it(sharing, text):
    assert str(sharing) == text


def test_a_pass_has_its_share_and_a_lone_one_all_cores():
    module = Takes({1: 0.0, 2: 0.0})
    forward = forward_of(module)
    use(forward, Sharing(2, 1, 2))
    forward(ITEMS)
    assert module.seen == {1}
    forward(ITEMS, all_cores=True)
    assert module.seen == {1, 2}

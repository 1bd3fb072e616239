"""Passes are recorded for the sizes where that is faster, and answers are the same."""

import itertools
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchserve.runners import graph_choice
from batchserve.runners.base import OutOfMemory
from batchserve.runners.cuda_graph import RecordingBroke
from batchserve.runners.forward import Forward
from batchserve.runners.graph_choice import choose_graphs
from batchserve.runners.transfer import Streamed
from batchserve.tasks.tensor import TensorTask
from tests.models import FailsOnNegative, tiny
from tests.runners.recording import record
from tests.runners.test_transfer import LateLane

CPU = torch.device("cpu")
EXAMPLE = torch.zeros(10)
SIZES = (1, 2, 4, 8)


def forward_of(module: nn.Module) -> Forward:
    return Forward(
        module.eval(), TensorTask(), CPU, torch.float32, transfer=Streamed(CPU, LateLane())
    )


@pytest.fixture
def take(monkeypatch):
    """Return a function that has passes take so many seconds: by size, plain and recorded."""

    def set_seconds(seconds: dict[int, tuple[float, float]]) -> None:
        monkeypatch.setattr(
            "batchserve.runners.graph_choice._seconds",
            lambda _forward, _graphs, items: seconds[len(items)],
        )

    return set_seconds


GAINS = {1: (2.0, 1.0), 2: (2.0, 1.0), 4: (2.0, 1.0), 8: (2.0, 1.25)}


def test_all_sizes_are_used_where_all_are_faster(take):
    take(GAINS)
    module = tiny()
    forward = forward_of(module)
    choice = choose_graphs(forward, EXAMPLE, SIZES, record)
    assert str(choice) == "used for batches of 1, 2, 4, 8; up to 2.00 times as fast"
    assert choice.seconds == {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.25}
    assert forward.graphs is not None
    items = [torch.randn(10) for _ in range(7)]
    torch.testing.assert_close(torch.stack(forward(items)), module(torch.stack(items)))


def test_it_ends_with_the_first_size_that_is_not_worth_it(take):
    take({**GAINS, 4: (2.0, 1.95)})
    forward = forward_of(tiny())
    choice = choose_graphs(forward, EXAMPLE, SIZES, record)
    assert str(choice) == (
        "used for batches of 1, 2; up to 2.00 times as fast; not for 4: 1.03 times as fast"
    )
    assert forward.graphs is not None
    assert len(forward.graphs) == 2


def test_none_is_used_where_none_is_faster(take):
    take({1: (1.0, 1.0)})
    forward = forward_of(tiny())
    assert str(choose_graphs(forward, EXAMPLE, SIZES, record)) == "not used: 1.00 times as fast"
    assert forward.graphs is None


def test_few_rows_are_for_the_module_where_that_is_faster(take):
    take({1: (1.0, 0.5), 8: (8.0, 6.5)})
    forward = forward_of(tiny())
    choose_graphs(forward, EXAMPLE, [8, 1], record)
    assert forward.graphs is not None
    with torch.inference_mode():
        used = [forward.graphs(torch.zeros(rows, 10)) is not None for rows in range(1, 9)]
    assert used == [True, *[False] * 5, *[True] * 2]


def test_it_is_really_measured(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 100)
    seen = []
    forward = forward_of(tiny())
    call = Forward.__call__

    def look(self: Forward, items: list[Tensor]) -> list[Any]:
        seen.append(self.graphs is not None)
        return call(self, items)

    monkeypatch.setattr(Forward, "__call__", look)
    choice = choose_graphs(forward, EXAMPLE, [1], record)
    # A tick for each pass, whichever way: neither is faster, and both had their turns.
    assert choice.reason == "1.00 times as fast"
    assert seen[2:6] == [False, True, False, True]


def test_a_recording_that_answers_otherwise_is_not_used(take):
    take(GAINS)

    class Peeks(nn.Module):
        calls = 0

        def forward(self, batch: Tensor) -> Tensor:
            self.calls += 1
            return batch + self.calls

    forward = forward_of(Peeks())
    choice = choose_graphs(forward, EXAMPLE, SIZES, record)
    assert choice.reason.startswith("answers differ by")
    assert forward.graphs is None


def test_nor_one_that_answers_nothing(take):
    take(GAINS)
    forward = forward_of(tiny())

    def record_nothing(function):
        return function().fill_(math.nan), lambda: None

    assert "answers differ by nan" in str(choose_graphs(forward, EXAMPLE, SIZES, record_nothing))
    assert forward.graphs is None


def test_what_waits_for_the_device_is_never_tried(take):
    take(GAINS)
    forward = forward_of(FailsOnNegative())

    def never(function):
        pytest.fail("it is tried")

    assert "not used: the model waits for the device" in str(
        choose_graphs(forward, EXAMPLE, SIZES, never)
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the memory does not suffice"),
        (OutOfMemory("a batch of 4"), "the memory does not suffice"),
        (RuntimeError("capture was invalidated"), "RuntimeError: capture was invalidated"),
    ],
)
def test_where_recording_fails_the_smaller_sizes_are_used(take, error, reason):
    take(GAINS)

    def record_some(function):
        output, replay = record(function)
        if len(output) == 4:
            raise error
        return output, replay

    forward = forward_of(tiny())
    choice = choose_graphs(forward, EXAMPLE, SIZES, record_some)
    assert (list(choice.seconds), choice.refused, choice.reason) == ([1, 2], 4, reason)
    assert len(forward(list(torch.zeros(4, 10)))) == 4


def test_what_the_model_did_is_told_rather_than_what_came_of_it(take):
    take(GAINS)

    def fail(function):
        try:
            raise ValueError("an extension is not ready for this")
        finally:
            raise RuntimeError("the capture was invalidated")

    choice = choose_graphs(forward_of(tiny()), EXAMPLE, SIZES, fail)
    assert choice.reason == "ValueError: an extension is not ready for this"


def test_a_replay_that_fails_is_not_used(take, caplog):
    take(GAINS)

    def record_badly(function):
        def replay():
            raise RuntimeError("no such luck")

        return record(function)[0], replay

    forward = forward_of(tiny())
    choice = choose_graphs(forward, EXAMPLE, SIZES, record_badly)
    assert str(choice) == "not used: replaying it failed"
    assert "no such luck" in caplog.text


def test_where_only_a_new_process_helps_it_says_so(take):
    take(GAINS)

    def break_(function):
        raise RecordingBroke("torch does not recover")

    with pytest.raises(RecordingBroke):
        choose_graphs(forward_of(tiny()), EXAMPLE, SIZES, break_)


def test_the_largest_batch_needs_room_beside_them(take, monkeypatch):
    take({**GAINS, 8: (1.0, 1.0)})
    given_back: list[torch.device] = []
    monkeypatch.setattr(graph_choice, "give_memory_back", given_back.append)

    class Large(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            # The last pass is the one that tries.
            if len(batch) == 8 and given_back:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return batch + 1

    forward = forward_of(Large())
    choice = choose_graphs(forward, EXAMPLE, SIZES, record)
    assert str(choice) == "not used: the largest batch does not fit beside them"
    assert forward.graphs is None
    assert len(given_back) == 2

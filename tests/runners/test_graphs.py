"""Recorded passes: filled up, cut, and the same answers for every number of rows."""

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from batchserve.runners.forward import Forward
from batchserve.runners.graphs import Graphs, NotRecordable, first_worth
from batchserve.runners.transfer import Streamed
from batchserve.tasks.tensor import TensorTask
from tests.models import Double, Splits, tiny
from tests.runners.recording import record
from tests.runners.test_transfer import LateLane

CPU = torch.device("cpu")
SIZES = (1, 2, 4, 8)


def forward_of(module: nn.Module, task: TensorTask | None = None) -> Forward:
    return Forward(
        module.eval(), task or TensorTask(), CPU, torch.float32, transfer=Streamed(CPU, LateLane())
    )


def recorded(module: nn.Module, item: Tensor, sizes=SIZES, task=None) -> Forward:
    """Return a pass with a recording for each size."""
    forward, graphs = forward_of(module, task), Graphs(record)
    for size in sizes:
        forward.record(graphs, [item] * size)
    forward.graphs = graphs
    return forward


class Counts(nn.Module):
    """Double, and counts who calls it; `seen` are the rows of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append(batch[:, 0].tolist())
        return 2 * batch


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_answers_are_those_of_the_module_for_every_number_of_rows_and_stay_so(sizes):
    module = tiny()
    forward = recorded(module, torch.zeros(10))
    batches = [[torch.randn(10) for _ in range(size)] for size in sizes]
    answers = [forward(batch) for batch in batches]
    assert forward.graphs is not None
    plain = forward_of(module)
    for batch, rows in zip(batches, answers, strict=True):
        torch.testing.assert_close(torch.stack(rows), torch.stack(plain(batch)))


def test_a_batch_between_two_sizes_is_filled_up_with_its_own_last_row():
    module = Counts()
    forward = recorded(module, torch.zeros(1))
    forward([torch.tensor([9.0])] * 4)
    module.seen.clear()
    rows = forward([torch.tensor([float(i)]) for i in range(3)])
    assert module.seen == [[0, 1, 2, 2]]
    assert [row.item() for row in rows] == [0, 2, 4]


def test_what_is_larger_than_all_of_them_is_for_the_module():
    module = Counts()
    forward = recorded(module, torch.zeros(1), sizes=(1, 2))
    module.seen.clear()
    assert len(forward([torch.ones(1)] * 3)) == 3
    assert module.seen == [[1, 1, 1]]


@pytest.mark.parametrize("other", [torch.ones(2), torch.ones(1, dtype=torch.int64)])
def test_so_is_what_has_another_shape_or_dtype(other):
    forward = recorded(Counts(), torch.zeros(1))
    assert forward([other] * 2)[1].tolist() == (2 * other).tolist()


def test_a_dropped_size_and_too_few_rows_go_elsewhere():
    graphs, module = Graphs(record), Counts()
    for size in (1, 2, 4):
        graphs.add(module, torch.zeros(size, 1)).least = size
    graphs.drop(2)
    graphs.drop(16)
    assert len(graphs) == 2
    called = [graphs(torch.ones(rows, 1)) is not None for rows in (1, 2, 3, 4, 5)]
    assert called == [True, False, False, True, False]


class TwoInputs(TensorTask):
    def preprocess(self, batch):
        return {"left": batch, "right": 10 * batch}


class Subtracts(nn.Module):
    def forward(self, right: Tensor, left: Tensor) -> dict[str, Tensor]:
        return {"difference": right - left, "left": left}


def test_mappings_go_in_and_come_out_by_name():
    forward = recorded(Subtracts(), torch.zeros(1), task=TwoInputs())
    rows = forward([torch.tensor([float(i)]) for i in range(3)])
    assert forward.graphs is not None
    assert [row["difference"].item() for row in rows] == [0, 9, 18]
    assert [row["left"].item() for row in rows] == [0, 1, 2]


def test_several_outputs_are_cut_alike():
    rows = recorded(Splits(), torch.zeros(1))([torch.ones(1), torch.ones(1), 5 * torch.ones(1)])
    assert [[part.item() for part in row] for row in rows] == [[1, 2], [1, 2], [5, 10]]


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - as models return


@pytest.mark.parametrize(
    ("inputs", "module", "reason"),
    [
        (torch.ones(2, 1), lambda _: "text", "returns str"),
        (torch.ones(2, 1), lambda batch: Pair(batch, batch), "returns Pair"),
        (torch.ones(2, 1), lambda batch: {"a": [batch, 7]}, "returns int"),
        (torch.ones(2, 1), lambda batch: batch[1:], "does not return 2 rows"),
        (torch.ones(2, 1), lambda batch: batch.sum(), "does not return 2 rows"),
        ({"a": 1}, lambda batch: batch, "something else than tensors"),
        ((), lambda batch: batch, "something else than tensors"),
        ((torch.ones(2), torch.ones(3)), lambda batch: batch, "different numbers of rows"),
        (torch.tensor(1.0), lambda batch: batch, "different numbers of rows"),
    ],
)
def test_what_is_not_made_of_rows_is_not_recorded(inputs, module, reason):
    graphs = Graphs(record)
    with pytest.raises(NotRecordable, match=reason):
        graphs.add(module, inputs)
    assert not len(graphs)


def test_an_ordered_dict_is_a_dict():
    graphs = Graphs(record)
    graphs.add(lambda batch: OrderedDict(out=batch), torch.zeros(2, 1))
    output: Any = graphs(torch.ones(1, 1))
    assert output["out"].tolist() == [[1]]


def test_inputs_that_are_no_tensors_now_are_for_the_module():
    graphs = Graphs(record)
    graphs.add(Double(), torch.zeros(1, 1))
    assert graphs({"a": 7}) is None


def test_after_a_failed_replay_the_module_answers(caplog):
    forward = forward_of(Double())

    def fail() -> None:
        raise RuntimeError("CUDA error: no such luck")

    graphs = Graphs(lambda function: (record(function)[0], fail))
    forward.record(graphs, [torch.zeros(1)])
    forward.graphs = graphs
    for _ in range(2):
        assert forward([torch.ones(1)])[0].item() == 2
    assert [record.getMessage() for record in caplog.records] == [
        "CUDA graphs are not used any more: CUDA error: no such luck"
    ]
    assert forward.graphs is None


@pytest.mark.parametrize(
    ("plain_s", "graph_s", "least"),
    [
        # Passes of 4 take 1 s: a recording that is no slower than they are is always worth it.
        (2.0, 0.9, 5),
        (2.0, 1.0, 5),
        (2.0, 1.5, 7),
        (2.0, 1.99, 8),
        (1.0, 0.9, 5),
        (1.0, 1.2, 5),
    ],
)
def test_from_where_on_a_recording_is_faster(plain_s, graph_s, least):
    assert first_worth(4, 1.0, 8, plain_s, graph_s) == least


def test_for_one_row_there_is_nothing_smaller():
    assert first_worth(0, 0.0, 1, 2.0, 1.0) == 1

"""One forward pass: stacked, prepared, run without gradients, checked, split."""

import threading
from collections.abc import Iterator

import psutil
import pytest
import torch
from torch import Tensor, nn

from batchserve.config import ImageConfig
from batchserve.runners.forward import Forward, RowCountError, rows_of
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask
from tests.models import Double, LosesRows, tiny

CPU = torch.device("cpu")


def forward_of(module: nn.Module, dtype: torch.dtype = torch.float32) -> Forward:
    return Forward(module.eval(), TensorTask(), CPU, dtype)


def test_each_item_gets_the_row_that_it_would_have_got_alone():
    module = tiny()
    items = [torch.randn(10) for _ in range(5)]
    rows = forward_of(module)(items)
    for item, row in zip(items, rows, strict=True):
        torch.testing.assert_close(row, module(item[None])[0])


def test_it_runs_in_inference_mode():
    seen = []

    class Look(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            seen.append((torch.is_inference_mode_enabled(), batch.requires_grad))
            return batch

    forward_of(Look())([torch.ones(1)])
    assert seen == [(True, False)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_are_cast_to_the_precision_and_answers_come_back_in_fp32(dtype):
    module = nn.Linear(4, 2).to(dtype)
    (row,) = forward_of(module, dtype)([torch.ones(4)])
    assert row.dtype == torch.float32


def test_integers_are_left_alone():
    module = nn.Embedding(10, 3)
    (row,) = forward_of(module)([torch.tensor([1, 2])])
    assert row.shape == (2, 3)


def test_one_row_short_is_an_error_not_a_shift():
    with pytest.raises(RowCountError, match=r"given 3 rows and returned .* \(2, 1\)"):
        forward_of(LosesRows())([torch.ones(1)] * 3)


@pytest.mark.parametrize("output", [torch.tensor(1.0), torch.ones(3), {"a": torch.ones(3, 2)}])
def test_whatever_has_another_number_of_rows_is_refused(output):
    with pytest.raises(RowCountError):
        rows_of(output, 2)


def test_mappings_and_tuples_are_split_too():
    output = {"boxes": torch.tensor([[1.0], [2.0]]), "both": (torch.tensor([3, 4]),)}
    first, second = rows_of(output, 2)
    assert first["boxes"].tolist() == [1.0]
    assert second["boxes"].tolist() == [2.0]
    assert [part.item() for part in second["both"]] == [4]


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match="returned str"):
        rows_of("seven", 1)


def test_preprocessing_happens_once_per_batch():
    calls = []

    class Counting(TensorTask):
        def preprocess(self, batch: Tensor) -> Tensor:
            calls.append(tuple(batch.shape))
            return batch

    Forward(Double(), Counting(), CPU, torch.float32)([torch.ones(3)] * 4)
    assert calls == [(4, 3)]


def test_an_image_stays_eight_bit_until_the_batch_is_on_the_device():
    task = ImageClassification(ImageConfig(resize=8, crop=8))
    assert task.example().dtype == torch.uint8
    assert task.preprocess(task.example()[None]).dtype == torch.float32


@pytest.fixture
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_a_pass_obeys_the_number_of_threads_on_whatever_thread_it_runs():
    """Otherwise OpenMP takes all cores there, and its threads spin for each other."""
    forward = forward_of(nn.Linear(512, 512))
    threads: list[int] = []

    def run() -> None:
        items = [torch.zeros(512)] * 8
        threads.append(psutil.Process().num_threads())
        forward(items)
        threads.append(psutil.Process().num_threads())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    before, after = threads
    assert after == before

"""One forward pass: collated, prepared, run without gradients, checked, split."""

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from batchserve.config import ImageConfig
from batchserve.runners.base import DeviceLost, OutOfMemory, RowFault
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


class Pairs(TensorTask):
    """An item is two numbers, which the module gets apart."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind

    def collate(self, items: Sequence[Tensor]) -> Any:
        left, right = torch.stack(list(items)).unbind(1)
        return (left, right) if self.kind is tuple else {"right": right, "left": left}


class Difference(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        assert left.dtype == right.dtype == torch.bfloat16
        return left - right


@pytest.mark.parametrize("kind", [tuple, dict])
def test_a_tuple_is_positional_arguments_a_dict_is_keyword_arguments(kind):
    forward = Forward(Difference(), Pairs(kind), CPU, torch.bfloat16)
    rows = forward([torch.tensor([3.0, 1.0]), torch.tensor([5.0, 9.0])])
    assert [row.item() for row in rows] == [2, -4]


class Reciprocal(nn.Module):
    def forward(self, batch: Tensor) -> Any:
        return {"of": batch, "is": (1 / batch, batch)}


class Scores(TensorTask):
    finite_rows = True


def test_a_row_that_is_not_finite_fails_alone():
    items = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([4.0, 8.0])]
    first, fault, last = Forward(Reciprocal(), Scores(), CPU, torch.float32)(items)
    assert isinstance(fault, RowFault)
    assert str(fault) == "the model's answer to this input is not finite (NaN or infinity)"
    assert first["is"][0].tolist() == [1, 0.5]
    assert last["is"][0].tolist() == [0.25, 0.125]


def test_other_tasks_may_answer_with_infinity():
    (row,) = forward_of(Reciprocal())([torch.zeros(1)])
    assert row["is"][0].tolist() == [float("inf")]


def test_numbers_whose_sum_overflows_are_finite():
    largest = torch.full((3,), torch.finfo().max)
    (row,) = Forward(nn.Identity(), Scores(), CPU, torch.float32)([largest])
    assert torch.equal(row, largest)


class RunsOutOfMemory(nn.Module):
    """Allocates, as far as it gets, more than there is."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.held: list[weakref.ref[Tensor]] = []

    def forward(self, batch: Tensor) -> Tensor:
        hidden = batch.new_zeros(1000)
        self.held.append(weakref.ref(hidden))
        if self.error is None:
            return batch.new_empty(2**45)
        # Raised from here, this frame is in its traceback; and an error may be in a cycle.
        error = type(self.error)(*self.error.args)
        error.args = (*error.args, error)
        raise error


@pytest.mark.parametrize(
    "error",
    [
        None,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        MemoryError("Unable to allocate 256. TiB for an array"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_what_a_pass_held_when_the_memory_ran_out_is_free_again(error):
    module = RunsOutOfMemory(error)
    with pytest.raises(OutOfMemory, match="does not suffice for a batch of 2 on cpu") as caught:
        forward_of(module)([torch.ones(3)] * 2)
    assert caught.value.__context__ is None
    assert [held() for held in module.held] == [None]


def test_the_smaller_batch_after_that_works():
    class Fits(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            if len(batch) > 2:
                batch.new_empty(2**45)
            return batch

    forward = forward_of(Fits())
    with pytest.raises(OutOfMemory):
        forward([torch.ones(3)] * 3)
    assert len(forward([torch.ones(3)] * 2)) == 2


class Breaks(nn.Module):
    """Fails as a kernel does, on whatever device."""

    def forward(self, batch: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def forward_on(device: str, module: nn.Module, **kwargs) -> Forward:
    return Forward(module, TensorTask(), torch.device(device), torch.float32, **kwargs)


def test_a_device_that_answers_no_more_is_lost():
    # The meta device takes tensors, and computes nothing: as torch sees it, it is broken.
    with pytest.raises(DeviceLost, match="meta answers no more") as caught:
        forward_on("meta", Breaks())([torch.ones(1)])
    assert "illegal memory access" in str(caught.value.__cause__)


def test_a_device_that_still_answers_is_not():
    asked = []

    def device_answers(device: torch.device) -> bool:
        asked.append(device.type)
        return True

    forward = forward_on("meta", Breaks(), device_answers=device_answers)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        forward([torch.ones(1)])
    assert asked == ["meta"]


def test_a_cpu_is_never_asked():
    forward = forward_on("cpu", Breaks(), device_answers=lambda device: False)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        forward([torch.ones(1)])


def test_batches_are_padded_with_the_last_item_and_the_answers_cut():
    seen = []

    class Look(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            seen.append(batch.flatten().tolist())
            return batch

    forward = forward_on("cpu", Look(), pad_to=4)
    assert [row.item() for row in forward([torch.tensor([1.0]), torch.tensor([2.0])])] == [1, 2]
    assert len(forward([torch.ones(1)] * 4)) == 4
    assert seen == [[1, 2, 2, 2], [1, 1, 1, 1]]


def test_more_items_than_every_batch_has_are_refused():
    with pytest.raises(ValueError, match="3 items are more than the 2"):
        forward_on("cpu", Double(), pad_to=2)([torch.ones(1)] * 3)


def test_a_row_short_of_a_padded_batch_is_an_error_too():
    with pytest.raises(RowCountError, match="given 4 rows"):
        forward_on("cpu", LosesRows(), pad_to=4)([torch.ones(1)])


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_the_process_is_an_error_like_any_other(raised):
    class Panics(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise raised

    with pytest.raises(RuntimeError, match=type(raised).__name__):
        forward_of(Panics())([torch.ones(1)])


class Order(nn.Module):
    """Says whether images come pixel by pixel."""

    def forward(self, batch: Tensor) -> Tensor:
        by_pixel = batch.is_contiguous(memory_format=torch.channels_last)
        return torch.full((len(batch), 1), float(by_pixel))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("task", [TensorTask(), ImageClassification(ImageConfig(crop=8))])
def test_images_come_in_the_order_that_the_weights_have(task, channels_last):
    is_tensor = isinstance(task, TensorTask)
    item = torch.rand(3, 8, 8) if is_tensor else torch.zeros(8, 8, 3, dtype=torch.uint8)
    task.postprocess = lambda output: output
    forward = Forward(Order(), task, CPU, torch.float32, channels_last=channels_last)
    assert [row.item() for row in forward([item] * 2)] == [channels_last] * 2


def test_what_is_no_image_has_one_order_only():
    forward = Forward(nn.Identity(), TensorTask(), CPU, torch.float32, channels_last=True)
    assert [row.shape for row in forward([torch.ones(2, 3, 4, 5)] * 2)] == [(2, 3, 4, 5)] * 2

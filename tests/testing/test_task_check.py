"""`check_task` finds each way in which a task can break what the server relies on."""

import base64
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from batchserve.config import ImageConfig
from batchserve.errors import InvalidInput, RequestError
from batchserve.tasks.base import Parameters, Task
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.padding import attention_mask, pad_stack, padded_length
from batchserve.tasks.tensor import TensorTask
from batchserve.testing import check_task
from tests.conftest import photo
from tests.models import DoublesRows, FailsOnNegative, LosesRows, MeanColour, tiny
from tests.tasks.test_padding import MeanOfWords

PAYLOADS = ["one", "two", "something longer than 16 letters", "also longer than 16"]


class Digits(Parameters):
    digits: int = 3


class Letters(Task):
    """A word to five numbers; a letter is a token. Nothing is wrong with it."""

    Input = str
    Output = list[float]
    Parameters = Digits

    def decode(self, payload: Any) -> Any:
        if not payload:
            raise InvalidInput("the text is empty")
        return torch.tensor(list(payload.encode()))

    def bucket_key(self, item: Tensor) -> Any:
        return padded_length(len(item))

    def collate(self, items: Sequence[Tensor]) -> Any:
        length = padded_length(len(items[0]))
        return {
            "input_ids": pad_stack(items, length),
            "attention_mask": attention_mask(items, length),
        }

    def encode(self, row: Any, parameters: Any) -> Any:
        return [round(number, parameters.digits) for number in row.tolist()]

    def example(self) -> Any:
        return self.decode("example")


def test_a_good_task_passes_and_its_answers_are_returned():
    answers = check_task(Letters(), PAYLOADS, MeanOfWords(), refused=["", 7, None])
    assert [len(answer) for answer in answers] == [5] * len(PAYLOADS)
    (coarse,) = check_task(Letters(), ["one"], MeanOfWords(), parameters={"digits": "1"})
    assert coarse == pytest.approx(answers[0], abs=0.05)
    assert coarse != answers[0]


def test_the_built_in_tasks_pass():
    picture = photo("coffee")
    payloads = [picture, base64.b64encode(picture).decode()]
    module = nn.Sequential(MeanColour(), nn.Linear(3, 9))
    task = ImageClassification(ImageConfig(resize=32, crop=32))
    raw, from_json = check_task(task, payloads, module, refused=[b"no image", "!", 7])
    assert raw == from_json
    assert len(check_task(TensorTask((10,)), [[0] * 10, [1.5] * 10], tiny())) == 2


def test_without_a_module_it_goes_as_far_as_collate():
    assert check_task(Letters(), PAYLOADS) == []


def test_arrays_are_arrays_that_cannot_be_written_to():
    class Changes(TensorTask):
        def decode(self, payload: Any) -> Tensor:
            if isinstance(payload, np.ndarray):
                payload *= 2
            return super().decode(payload)

    numbers = np.arange(10, dtype=np.float32)
    assert (
        check_task(TensorTask(), [numbers, numbers.tolist()], tiny())
        == [pytest.approx(tiny()(torch.from_numpy(numbers)[None])[0].tolist(), rel=1e-5)] * 2
    )
    with pytest.raises(AssertionError, match="decode raises ValueError"):
        check_task(Changes(), [numbers], tiny())
    assert numbers.flags.writeable


def test_raw_bodies_are_bytes():
    class Raw(Letters):
        media_types = ("text/plain",)

        def decode(self, payload: Any) -> Any:
            return super().decode(payload.decode() if isinstance(payload, bytes) else payload)

    one, same = check_task(Raw(), ["one", b"one"], MeanOfWords())
    assert one == same


class NotDescribed(Letters):
    Input: ClassVar[Any] = RequestError


class ParametersRequired(Letters):
    class Parameters(BaseModel):
        digits: int


class RaisesKeyError(Letters):
    def decode(self, payload: Any) -> Any:
        return torch.tensor([{"o": 1, "n": 2, "e": 3}[letter] for letter in payload])


class DecodesToList(Letters):
    def decode(self, payload: Any) -> Any:
        return list(payload.encode())


class DecodesToMeta(Letters):
    def decode(self, payload: Any) -> Any:
        return torch.empty(3, device="meta")


class ReusesItsBuffer(Letters):
    buffer = torch.zeros(16, dtype=torch.int64)

    def decode(self, payload: Any) -> Any:
        self.buffer[:] = len(payload)
        return self.buffer


class ExampleFails(Letters):
    def example(self) -> Any:
        return self.decode("")


class ExampleIsText(Letters):
    def example(self) -> Any:
        return "example"


class NoFixedShape(Letters):
    fixed_shape = True


class KeyHasNoHash(Letters):
    def bucket_key(self, item: Tensor) -> Any:
        return [len(item)]


class KeyIsTheTensor(Letters):
    def bucket_key(self, item: Tensor) -> Any:
        return item.data_ptr()


class KeepsNoDtype(Letters):
    def decode(self, payload: Any) -> Any:
        return torch.tensor(list(payload.removeprefix("one").encode()))


class CollateFails(Letters):
    def collate(self, items: Sequence[Tensor]) -> Any:
        return torch.stack(list(items))


class CollatesToList(Letters):
    def collate(self, items: Sequence[Tensor]) -> Any:
        return list(super().collate(items).values())


class Concatenates(Letters):
    def collate(self, items: Sequence[Tensor]) -> Any:
        return torch.cat(list(items))


class ChangesItems(Letters):
    def collate(self, items: Sequence[Tensor]) -> Any:
        items[0][0] = 7
        return super().collate(items)


class ForgetsTheMask(Letters):
    def bucket_key(self, item: Tensor) -> Any:
        return "any"

    def collate(self, items: Sequence[Tensor]) -> Any:
        length = max(map(len, items))
        batch = pad_stack(items, length)
        return {"input_ids": batch, "attention_mask": torch.ones_like(batch)}


class ForgetsToList(Letters):
    def encode(self, row: Any, parameters: Any) -> Any:
        return row


class EncodesToText(Letters):
    def encode(self, row: Any, parameters: Any) -> Any:
        return str(row.tolist())


class EncodeFails(Letters):
    def encode(self, row: Any, parameters: Any) -> Any:
        return row["scores"].tolist()


class NotFinite(Letters):
    def postprocess(self, output: Any) -> Any:
        return output / 0


class SaysNotFinite(NotFinite):
    finite_rows = True


class PreprocessFails(Letters):
    def preprocess(self, batch: Any) -> Any:
        return batch / 255


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (NotDescribed, "Input or Output is no type that pydantic describes in JSON"),
        (ParametersRequired, "Parameters needs a default for each field: digits: Field required"),
        (
            RaisesKeyError,
            r"decode raises KeyError on payloads\[1\], 'two': 't'; .* 500; raise InvalidInput for",
        ),
        (DecodesToList, r"decode returns \[111, 110, 101\] for payloads\[0\]; return a tensor"),
        (DecodesToMeta, "decode returns a tensor of shape .* on meta for .*; return .* on the CPU"),
        (ReusesItsBuffer, r"decode has changed the item of payloads\[0\]; return a new tensor"),
        (ExampleFails, "example at warm-up raises InvalidInput: the text is empty"),
        (ExampleIsText, r"example returns 'example' for example\(\); return a tensor"),
        (NoFixedShape, r"fixed_shape is True, but items are \[19\] .* and \[3\] .* and"),
        (
            KeyHasNoHash,
            r"bucket_key returns \[3\], of which hash\(\) raises TypeError: unhashable type",
        ),
        (KeyIsTheTensor, "bucket_key returns .* and something else for an equal item"),
        (
            KeepsNoDtype,
            r"bucket_key puts payloads\[0\], .* of torch.float32 and torch.int64; state the dtype",
        ),
        (CollateFails, "collate on payloads.* raises RuntimeError: "),
        (CollatesToList, r"collate returns \[.*; return a tensor, a tuple .* or a dict"),
        (Concatenates, "collate makes a tensor of shape .* its first dimension must be"),
        (ChangesItems, "collate has changed the item of payloads.*copy what you change"),
        (
            ForgetsTheMask,
            r"collate or module gives payloads\[0\] the answer .* alone and .* a mask leaves out",
        ),
        (ForgetsToList, r"encode returns what is no JSON: .*Tensor; row.tolist\(\) gives numbers"),
        (EncodesToText, "encode answers .*, which is no Output: Input should be a valid array"),
        (EncodeFails, r"encode on payloads\[0\] raises IndexError: "),
        (
            NotFinite,
            r"encode answers .*, which is no Output: 0: Input .* \(NaN and infinity are null",
        ),
        (SaysNotFinite, r"finite_rows is True, and of payloads\[0\] the model's answer .* finite"),
        (
            PreprocessFails,
            r"preprocess, module or postprocess on payloads\[0\], .* shape \[3\], raises TypeError",
        ),
    ],
)
def test_what_is_broken_is_named(broken, message):
    with pytest.raises(AssertionError, match=rf"^{broken.__name__}: {message}"):
        check_task(broken(), PAYLOADS, MeanOfWords())


class BatchOfOne(TensorTask):
    Output = list[float]
    fixed_shape = False

    def decode(self, payload: Any) -> Tensor:
        return super().decode(payload)[None]


class ScalesInPlace(TensorTask):
    """Its batch of one is a view of the item."""

    def collate(self, items: Sequence[Tensor]) -> Any:
        return items[0][None] if len(items) == 1 else torch.stack(list(items))

    def preprocess(self, batch: Tensor) -> Any:
        return batch.mul_(2)


class NeighboursMix(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return batch - batch.mean(dim=0)


TEN = list(range(10))


@pytest.mark.parametrize(
    ("task", "module", "message"),
    [
        (TensorTask((10,)), LosesRows(), "raises RowCountError: .* given 3 rows"),
        (TensorTask((10,)), DoublesRows(), "raises RowCountError: .* given 1 rows"),
        (TensorTask((10,)), FailsOnNegative(), "raises ValueError: negative numbers are beyond"),
        (TensorTask((10,)), NeighboursMix(), "gives .* alone and .* in a batch with payloads"),
        (BatchOfOne((10,)), tiny(), "no Output: 0: Input should be a valid number \\(if the 1 "),
        (ScalesInPlace((10,)), tiny(), "preprocess has changed the item of payloads"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_wrong_in_a_pass_is_named(task, module, message):
    with pytest.raises(AssertionError, match=message):
        check_task(task, [TEN, [-1] * 10], module)


def test_an_item_without_company_is_its_own():
    with pytest.raises(AssertionError, match="given 3 rows"):
        check_task(TensorTask(), [TEN], LosesRows())


@pytest.mark.parametrize(
    ("payloads", "refused", "message"),
    [
        (["one", ""], [], r"decode refuses payloads\[1\], '': the text is empty"),
        ([7], [], r"decode refuses payloads\[0\], 7: input: Input should be a valid string"),
        ([b"one"], [], "media_types is empty, so no client can send bytes; list their type"),
        ([np.zeros(1)], [], "arrays is False, so no client can send an array; set it to True"),
        ([{1, 2}], [], "Input comes as JSON, which cannot hold {1, 2}"),
        ([], ["one"], "decode accepts 'one', which is listed as refused"),
        ([], [b"one"], "media_types is empty"),
    ],
)
def test_inputs_that_it_takes_or_not_against_expectation(payloads, refused, message):
    with pytest.raises(AssertionError, match=message):
        check_task(Letters(), payloads, MeanOfWords(), refused=refused)


def test_a_bug_is_no_refusal():
    with pytest.raises(AssertionError, match="decode raises KeyError on 'two': 't'; the client"):
        check_task(RaisesKeyError(), ["one"], refused=["two"])

"""Names for what models give."""

import numpy as np
import pytest
import torch

from batchserve.tasks.tensors import (
    DATATYPES,
    TensorSpec,
    are_items,
    datatype_of,
    holds_text,
    named_arrays,
    specs_of,
)

ONE, TWO = torch.tensor([1.0]), torch.tensor([[2, 2]])


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (ONE, ["output"]),
        ([ONE, TWO], ["output_0", "output_1"]),
        ((ONE,), ["output_0"]),
        ({"logits": ONE, "hidden": TWO}, ["logits", "hidden"]),
        ({"logits": ONE, "states": [ONE, TWO]}, ["logits", "states_0", "states_1"]),
        ([ONE, {"a": TWO, "b": [ONE]}], ["output_0", "output_1_a", "output_1_b_0"]),
        ({0: ONE}, ["0"]),
    ],
)
def test_every_tensor_of_a_row_has_a_name(row, names):
    assert list(named_arrays(row)) == names


def test_the_arrays_are_those_tensors():
    arrays = named_arrays({"a": ONE, "b": TWO})
    assert arrays["a"].dtype == np.float32
    assert arrays["a"].tolist() == [1.0]
    assert arrays["b"].dtype == np.int64
    assert arrays["b"].tolist() == [[2, 2]]


def test_outputs_are_described_by_a_row():
    row = {"a": ONE, "b": TWO, "c": torch.tensor(True)}
    assert specs_of(row, fixed=True) == (
        TensorSpec("a", "FP32", (1,)),
        TensorSpec("b", "INT64", (1, 2)),
        TensorSpec("c", "BOOL", ()),
    )
    assert [spec.shape for spec in specs_of(row, fixed=False)] == [(-1,), (-1, -1), ()]


def test_what_the_protocol_has_no_type_for_is_left_out():
    row = [ONE, torch.tensor([1j])]
    assert [spec.name for spec in specs_of(row, fixed=True)] == ["output_0"]
    with pytest.raises(TypeError, match="no datatype for complex64"):
        datatype_of(np.dtype(np.complex64))


def test_datatypes_and_dtypes_are_one_to_one():
    assert {datatype_of(dtype) for dtype in DATATYPES.values()} == set(DATATYPES)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("text", True),
        (["text"], True),
        (b"bytes", True),
        ([1, [2, b"bytes"]], True),
        ([1, [2, [3, "text"]]], True),
        ([[1], [], [2.5, None, {}]], False),
        (1, False),
        ([], False),
        ([1, 2.5, True], False),
        ([1, 2.5, "3"], True),
        ([True, None, b"x"], True),
        ([None, 1], False),
    ],
)
def test_text_among_numbers(data, found):
    assert holds_text(data) is found


def test_items_and_payloads():
    assert are_items([ONE, TWO])
    assert not are_items([[1.0]])
    assert not are_items([b"file"])

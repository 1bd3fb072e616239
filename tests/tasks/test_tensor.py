import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from batchserve.config import ModelConfig
from batchserve.errors import InvalidInput
from batchserve.loading.program import Input
from batchserve.tasks.base import Parameters
from batchserve.tasks.tensor import TensorTask, shape_of_first_linear
from batchserve.tasks.tensors import TensorSpec
from tests.models import Double, tiny


def _refusal(task: TensorTask, payload: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        task.decode(payload)
    return str(caught.value)


# What is taken


@pytest.mark.parametrize(
    ("shape", "payload"),
    [
        (None, [1, 2, 3]),
        (None, [[1.5, 2], [3, 4]]),
        (None, 5),
        (None, []),
        ((), 5),
        ((3,), [1, 2, 3]),
        ((-1,), [1]),
        ((-1,), [1, 2, 3, 4]),
        ((2, 3), [[1, 2, 3], [4, 5, 6]]),
        ((-1, 2), [[1, 2], [3, 4], [5, 6]]),
        ((2, -1), [[1, 2, 3], [4, 5, 6]]),
        ((-1, -1, 1), [[[1], [2]]]),
    ],
)
def test_a_payload_of_the_wanted_shape_is_taken(shape, payload):
    decoded = TensorTask(shape).decode(payload)
    assert decoded.dtype == torch.float32
    assert decoded.tolist() == payload


@pytest.mark.parametrize(
    ("dtype", "payload"),
    [
        ("float32", [1, -2.5, 1e38]),
        ("float64", [1, -2.5, 1e300]),
        ("int64", [0, -1, 2**63 - 1, -(2**63)]),
        ("int64", [2**53 + 1]),
        ("int32", [2**31 - 1, -(2**31)]),
        ("uint8", [0, 255]),
        ("bool", [True, False]),
        ("bool", [1, 0]),
        ("float32", [True, False]),
        ("int64", [True, False]),
    ],
)
def test_numbers_become_the_dtype_without_loss(dtype, payload):
    decoded = TensorTask(dtype=dtype).decode(payload)
    assert decoded.dtype == getattr(torch, dtype)
    assert decoded.tolist() == np.array(payload, dtype).tolist()
    assert decoded.double().tolist() == pytest.approx([float(number) for number in payload])


def test_float32_rounds_as_it_must():
    assert TensorTask().decode([0.1]).item() == np.float32(0.1)


def test_each_item_has_memory_of_its_own():
    payload = np.ones(3, np.float32)
    decoded = TensorTask().decode(payload)
    payload[0] = 7
    assert decoded.tolist() == [1, 1, 1]


# What is refused


@pytest.mark.parametrize("payload", [[1, [2]], [[1, 2], [3]], [[[1], [2, 3]], [[4], [5]]], [[], 1]])
def test_ragged_lists_are_refused(payload):
    assert _refusal(TensorTask(), payload) == (
        "the nested lists are ragged; every row needs one length"
    )


@pytest.mark.parametrize(
    "payload",
    ["abc", "1", ["1"], [1, "2"], None, [None], [1, None], {"a": 1}, [{}], b"123", [[1, 2], "ab"]],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_what_is_no_number_is_refused(dtype, payload):
    message = _refusal(TensorTask(dtype=dtype), payload)
    assert message in (
        f"the input must be nested lists of {dtype}; something in it is not a number",
        "the nested lists are ragged; every row needs one length",
    )


@pytest.mark.parametrize(
    ("shape", "payload", "found"),
    [
        ((3,), [1, 2], [2]),
        ((3,), [1, 2, 3, 4], [4]),
        ((3,), [[1, 2, 3]], [1, 3]),
        ((3,), 1, []),
        ((), [1], [1]),
        ((-1, 2), [[1, 2, 3]], [1, 3]),
        ((-1, 2), [1, 2], [2]),
        ((2, -1), [[1], [2], [3]], [3, 1]),
    ],
)
def test_another_shape_is_refused_with_both(shape, payload, found):
    assert _refusal(TensorTask(shape), payload) == (
        f"the input has shape {found}, not nested lists of float32 of shape {list(shape)}"
    )


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("payload", [[0.5], [1, 1.5], [math.nan], [math.inf], 0.5])
def test_a_fraction_is_refused_where_integers_are_wanted(dtype, payload):
    assert _refusal(TensorTask(dtype=dtype), payload) == (
        f"the input must be nested lists of {dtype}; something in it is a fraction"
    )


@pytest.mark.parametrize(
    ("dtype", "payload"),
    [
        ("uint8", [256]),
        ("uint8", [-1]),
        ("int32", [2**31]),
        ("int32", [-(2**31) - 1]),
        ("int64", [2**63]),
        ("bool", [2]),
        ("bool", [-1]),
    ],
)
def test_what_is_out_of_range_is_refused_instead_of_wrapped(dtype, payload):
    assert _refusal(TensorTask(dtype=dtype), payload) == (
        f"the input must be nested lists of {dtype}; something is out of range"
    )


@pytest.mark.parametrize(
    ("dtype", "payload"),
    [
        ("float32", [math.nan]),
        ("float32", [math.inf]),
        ("float32", [-math.inf]),
        ("float32", [1e39]),
        ("float32", [-1e39]),
        ("float64", [math.nan]),
        ("float64", [1, math.inf]),
    ],
)
def test_what_is_not_finite_is_refused(dtype, payload):
    assert _refusal(TensorTask(dtype=dtype), payload) == (
        f"the input must be nested lists of {dtype}; something is not finite"
    )


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_an_empty_list_holds_no_fraction(dtype):
    assert TensorTask((-1,), dtype).decode([]).shape == (0,)


def test_a_refusal_names_shape_and_dtype():
    message = _refusal(TensorTask((-1, 2), "uint8"), [[1, 2.5]])
    assert message.startswith("the input must be nested lists of uint8 of shape [-1, 2]; ")


# What is answered


def test_a_row_becomes_lists():
    row = torch.tensor([[1.5, 2], [3, 4]])
    assert TensorTask().encode(row, Parameters()) == [[1.5, 2], [3, 4]]


@pytest.mark.parametrize(
    ("row", "encoded"),
    [
        (torch.tensor(1.5), 1.5),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor([True]), [True]),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
        (
            {"logits": torch.tensor([1.5]), "mask": torch.tensor([True])},
            {"logits": [1.5], "mask": [True]},
        ),
        ([torch.tensor([1]), torch.tensor([[2]])], [[1], [[2]]]),
        ((torch.tensor([1]), torch.tensor(2)), [[1], 2]),
        (
            {"hidden": [torch.tensor([1]), {"last": torch.tensor(2)}]},
            {"hidden": [[1], {"last": 2}]},
        ),
        ({}, {}),
        ([], []),
    ],
    ids=repr,
)
def test_whatever_tensors_a_model_returns_become_json(row, encoded):
    answer = TensorTask().encode(row, Parameters())
    assert answer == encoded
    assert type(answer) is type(encoded)


# Examples, and what the config says


@pytest.mark.parametrize(
    ("shape", "dtype", "wanted"),
    [
        ((3,), "float32", (3,)),
        ((-1, 4), "int64", (1, 4)),
        ((-1, -1), "uint8", (1, 1)),
        ((), "float64", ()),
    ],
)
def test_an_example_is_zeros_with_one_where_a_size_varies(shape, dtype, wanted):
    example = TensorTask(shape, dtype).example()
    assert example is not None
    assert example.shape == wanted
    assert example.dtype == getattr(torch, dtype)
    assert not example.any()


def test_without_a_shape_there_is_no_example():
    assert TensorTask().example() is None


def _from_config(module: nn.Module, **keys) -> TensorTask:
    return TensorTask.from_config(ModelConfig(name="one", source="a:b", **keys), module)


def test_the_shape_is_found_out_from_the_module():
    task = _from_config(tiny())
    assert (task.shape, task.dtype.name) == ((10,), "float32")


@pytest.mark.parametrize(
    ("keys", "shape", "dtype"),
    [
        ({"input_shape": (5, 10)}, (5, 10), "float32"),
        ({"input_shape": (10,), "input_dtype": "int32"}, (10,), "int32"),
        ({"input_dtype": "int64"}, None, "int64"),
        ({"input_shape": ()}, (), "float32"),
    ],
)
def test_what_the_config_says_is_not_guessed(keys, shape, dtype):
    task = _from_config(tiny(), **keys)
    assert (task.shape, task.dtype.name) == (shape, dtype)


class Program(nn.Module):
    """Tells what it takes, as programs do."""

    def __init__(self, *inputs: tuple[torch.dtype, tuple[int, ...]]) -> None:
        super().__init__()
        self.program_inputs = [Input(dtype, 1, None, shape) for dtype, shape in inputs]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float32, "float32"), (torch.bfloat16, "float32"), (torch.int64, "int64")],
)
def test_a_program_tells_shape_and_dtype(dtype, name):
    task = _from_config(Program((dtype, (3, -1))))
    assert (task.shape, task.dtype.name) == ((3, -1), name)


def test_a_program_with_several_inputs_tells_nothing():
    assert _from_config(Program((torch.int64, (3,)), (torch.int64, (3,)))).shape is None


def test_what_the_config_says_of_a_program_is_not_guessed():
    task = _from_config(Program((torch.float32, (3, -1))), input_shape=(3, 8))
    assert task.shape == (3, 8)


# The shape of the first Linear


class LinearSecond(nn.Module):
    """Has a Linear first by name, but shrinks its input before."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.head(batch.reshape(len(batch), 4, 3).mean(-1))
        return out


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (tiny(), (10,)),
        (nn.Linear(3, 2), (3,)),
        (nn.Linear(3, 2, bias=False), (3,)),
        (nn.Linear(3, 2).double(), (3,)),
        (nn.Sequential(nn.Dropout(), nn.Linear(7, 2)).eval(), (7,)),
        (nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2)).eval(), (6,)),
    ],
)
def test_the_shape_where_the_first_layer_is_a_linear(module, shape):
    assert shape_of_first_linear(module) == shape


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2)),
        nn.Conv1d(3, 4, 3),
        nn.Embedding(7, 3),
        nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)),
        nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)),
        Double(),
        LinearSecond(),
        nn.Sequential(nn.Linear(3, 2), nn.Linear(5, 2)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_no_shape_where_it_is_not(module):
    assert shape_of_first_linear(module) is None


@pytest.mark.parametrize(
    "module",
    [
        nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(),
        nn.GRU(4, 5, batch_first=True),
        nn.RNN(4, 4, batch_first=True),
    ],
    ids=lambda module: type(module).__name__,
)
def test_no_shape_where_a_matrix_is_one_sequence_instead_of_a_batch(module):
    # Their first parameter looks like a Linear's. With (features,) for an item, a batch would be
    # one sequence, and the items of several clients would be mixed.
    assert shape_of_first_linear(module) is None


@pytest.mark.filterwarnings("ignore:.torch.jit")  # deprecated upstream, yet still served
def test_the_shape_of_a_scripted_module():
    assert shape_of_first_linear(torch.jit.script(tiny())) == (10,)


@pytest.mark.filterwarnings("ignore:.torch.jit")  # deprecated upstream, yet still served
def test_the_shape_of_a_traced_module():
    assert shape_of_first_linear(torch.jit.trace(tiny(), torch.zeros(1, 10))) == (10,)


@pytest.mark.filterwarnings("ignore:.torch.jit")  # deprecated upstream, yet still served
def test_no_shape_of_a_scripted_module_without_a_linear():
    assert shape_of_first_linear(torch.jit.script(nn.Embedding(7, 3))) is None


def test_to_look_for_the_shape_changes_nothing():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    shape_of_first_linear(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())


# As named tensors.


@pytest.mark.parametrize(
    ("shape", "dtype", "spec"),
    [
        ((10,), "float32", TensorSpec("input", "FP32", (10,))),
        ((-1, 2), "int64", TensorSpec("input", "INT64", (-1, 2))),
        (None, "uint8", TensorSpec("input", "UINT8", (-1,))),
        ((), "bool", TensorSpec("input", "BOOL", ())),
    ],
)
def test_its_one_input_is_described(shape, dtype, spec):
    assert TensorTask(shape, dtype).input_specs() == (spec,)


@pytest.mark.parametrize("sent", ["float16", "float32", "float64", "int8", "uint64", "bool"])
def test_rows_become_items_of_its_dtype(sent):
    array = np.array([[0, 1], [1, 0], [1, 1]], sent)
    items = TensorTask((2,)).payloads({"input": array})
    assert [item.tolist() for item in items] == [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    assert {item.dtype for item in items} == {torch.float32}


def test_items_do_not_hold_on_to_what_was_sent():
    data = np.arange(4, dtype=np.float32).tobytes()
    array = np.frombuffer(data, np.float32).reshape(2, 2)
    (first, _) = TensorTask((2,)).payloads({"input": array})
    first[0] = 7
    assert array[0, 0] == 0


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3), np.float32), "has shape [2, 3], not INT64 of shape [-1, 2]"),
        (np.zeros(2, np.int64), "has shape [2], not INT64 of shape [-1, 2]"),
        (np.zeros((1, 2), np.float32), "must be INT64 of shape [-1, 2]; something in it is a frac"),
        (np.full((1, 2), 2**63, np.uint64), "something is out of range"),
        (np.array([[b"1", b"2"]], dtype=object), "something in it is not a number"),
    ],
)
def test_rows_that_are_no_input(array, message):
    with pytest.raises(InvalidInput) as caught:
        TensorTask((2,), "int64").payloads({"input": array})
    assert message in str(caught.value)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e39])
def test_rows_are_finite_in_its_dtype(number):
    with pytest.raises(InvalidInput, match="something is not finite"):
        TensorTask().payloads({"input": np.array([[number]])})


def test_one_long_text_among_many_numbers_does_not_make_all_of_them_long():
    # As numpy's strings these would take 80 GB.
    with pytest.raises(InvalidInput, match="not a number"):
        TensorTask().decode(["a" * 200_000, *[1] * 100_000])


# What is soon seen to be plain is taken as everything else is.

LARGEST = float(np.finfo(np.float32).max)
# Half a step further it would round to infinity.
ROUNDED_DOWN = LARGEST * (1 + 2.0**-26)
NUMBERS = st.one_of(
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.sampled_from(
        [LARGEST, -LARGEST, ROUNDED_DOWN, 2 * LARGEST, 1e300, 5e-324, -0.0, math.nan, math.inf]
    ),
)


class Careful(TensorTask):
    def _is_plain(self, array: np.ndarray[Any, Any]) -> bool:
        return False


def taken(task: TensorTask, payload: Any) -> Any:
    try:
        tensor = task.decode(payload)
    except InvalidInput as error:
        return str(error)
    assert tensor.dtype == torch.float32
    return tensor.shape, tensor.numpy().tobytes()


@given(st.lists(NUMBERS, max_size=4), st.sampled_from([(2,), (0,), (3,), (-1,), None]))
def test_plain_numbers_are_taken_as_all_numbers_are(payload, shape):
    task, careful = TensorTask(shape), Careful(shape)
    assert taken(task, payload) == taken(careful, payload)


@pytest.mark.parametrize(
    ("payload", "is_plain"),
    [
        ([0.5, -1.0], True),
        ([1e19, 1e-300], True),
        ([LARGEST, 0.0], False),
        ([1e300, 1.0], False),
        ([math.nan, 1.0], False),
        ([-math.inf, 1.0], False),
        ([1, 2], False),
        ([0.5, 1.0, 2.0], False),
        ([[0.5, 1.0]], False),
    ],
)
def test_which_numbers_are_plain(payload, is_plain):
    assert TensorTask((2,))._is_plain(np.asarray(payload)) is is_plain


def test_only_float32_is_taken_for_plain():
    assert not TensorTask((1,), "float64")._is_plain(np.asarray([0.5]))
    assert not TensorTask((1,), "int64")._is_plain(np.asarray([0.5]))

import copy

import pytest
import torch
from torch import nn

from batchserve.loading.int8_linear import Int8Linear


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def linear(inputs: int = 64, outputs: int = 32, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (5, 64), (2, 3, 64), (0, 64)])
def test_the_answer_is_nearly_that_of_the_layer(shape, bias):
    layer, rows = linear(bias=bias), torch.randn(shape)
    # A hundredth of the answers' own spread.
    torch.testing.assert_close(Int8Linear(layer)(rows), layer(rows), rtol=0, atol=0.03)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1, 1e6])
@pytest.mark.parametrize("shift", [0, 1, -100])
def test_rows_of_any_size_and_place_keep_their_precision(scale, shift):
    layer = linear(bias=False)
    rows = scale * (torch.randn(5, 64) + shift)
    expected = layer(rows)
    error = (Int8Linear(layer)(rows) - expected).abs().max()
    assert error < 0.02 * scale * (1 + abs(shift))


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_row_of_one_number_is_exact_but_for_the_weights(value):
    layer = linear()
    rows = torch.full((2, 64), value)
    torch.testing.assert_close(
        Int8Linear(layer)(rows), layer(rows), rtol=0, atol=0.03 * abs(value) + 1e-6
    )


def test_an_answer_is_the_same_to_the_bit_beside_any_neighbours():
    layer = Int8Linear(linear())
    rows = torch.randn(16, 64) * torch.logspace(-4, 4, 16)[:, None]
    rows[3] = 0
    together = layer(rows)
    for i, row in enumerate(rows):
        assert torch.equal(layer(row[None])[0], together[i])
        assert torch.equal(layer(rows[i:])[0], together[i])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_harms_itself_only(bad):
    layer, rows = Int8Linear(linear()), torch.randn(4, 64)
    expected = layer(rows)
    rows[2, 5] = bad
    answers = layer(rows)
    assert torch.equal(answers[[0, 1, 3]], expected[[0, 1, 3]])
    assert not answers[2].isfinite().any()


def test_the_largest_products_do_not_overflow():
    # On CPUs without VNNI, two products of eight bits each overflow sixteen.
    layer = nn.Linear(256, 4, bias=False)
    layer.weight.fill_(1.0)
    rows = torch.ones(3, 256)
    rows[:, 0] = 0
    torch.testing.assert_close(Int8Linear(layer)(rows), layer(rows), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_answer_has_the_rows_precision(dtype):
    layer = linear().to(dtype)
    answer = Int8Linear(layer)(torch.randn(2, 64, dtype=dtype))
    assert answer.dtype == dtype


def test_a_layer_of_zeros_stays_one():
    layer = nn.Linear(8, 4)
    layer.weight.zero_()
    torch.testing.assert_close(Int8Linear(layer)(torch.randn(2, 8)), layer.bias.expand(2, 4))


def test_who_looks_at_the_weights_finds_them():
    layer = linear()
    quantized = Int8Linear(layer)
    steps = layer.weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((quantized.weight - layer.weight).abs() <= steps / 2 + 1e-7).all()
    assert torch.equal(quantized.bias, layer.bias)


def test_a_copy_answers_the_same():
    quantized, rows = Int8Linear(linear()), torch.randn(2, 64)
    assert torch.equal(copy.deepcopy(quantized)(rows), quantized(rows))


def test_it_takes_a_quarter_of_the_memory():
    assert Int8Linear(linear(1000, 1000)).nbytes < 0.26 * linear(1000, 1000).weight.nbytes


def test_it_says_what_it_is():
    assert repr(Int8Linear(linear())) == "Int8Linear(in_features=64, out_features=32)"

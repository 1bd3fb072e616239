import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchserve.errors import LoadError
from batchserve.loading import load_module, place_module
from batchserve.loading.int8_linear import Int8Linear
from batchserve.loading.quantize import bytes_of, is_linear, quantize
from tests.loading.models import Tied, convolved
from tests.models import tiny

METHODS = pytest.mark.parametrize("method", ["int8-dynamic", "int8-weight-only"])
# torchao says so when it is imported.
torchao = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
pytestmark = torchao


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def large() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64)).eval()


@METHODS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_answers_stay_and_the_memory_shrinks(method, dtype):
    original = large().to(dtype)
    quantized = quantize(copy.deepcopy(original), method)
    batch = torch.randn(5, 256, dtype=dtype)
    torch.testing.assert_close(quantized(batch), original(batch), rtol=0, atol=0.05)
    assert bytes_of(quantized) < (0.28 if dtype is torch.float32 else 0.55) * bytes_of(original)


@METHODS
def test_an_answer_does_not_depend_on_its_neighbours(method):
    quantized = quantize(large(), method)
    batch = torch.randn(4, 256)
    alone = quantized(batch[:1])
    batch[1:] *= 1e6
    torch.testing.assert_close(quantized(batch)[:1], alone, rtol=0, atol=1e-6)


@METHODS
def test_a_model_that_is_one_linear_layer(method):
    layer = nn.Linear(64, 32)
    batch = torch.randn(2, 64)
    torch.testing.assert_close(
        quantize(copy.deepcopy(layer), method)(batch), layer(batch), rtol=0, atol=0.05
    )


@METHODS
def test_a_model_without_linear_layers_is_refused(method):
    with pytest.raises(LoadError) as caught:
        quantize(nn.Conv2d(3, 4, 3), method)
    assert str(caught.value) == (
        f"quantize: {method} is for torch.nn.Linear layers, and Conv2d has none; leave it out, or "
        f"try precision: bf16"
    )


def test_a_layer_that_a_module_has_twice_stays_one():
    layer = nn.Linear(8, 8)
    quantized: Any = quantize(nn.Sequential(layer, nn.Sequential(layer)), "int8-dynamic")
    assert isinstance(quantized[0], Int8Linear)
    assert quantized[1][0] is quantized[0]


class Special(nn.Linear):
    """Does more than a Linear."""


def test_what_is_more_than_a_linear_layer_is_left_alone():
    assert is_linear(nn.Linear(2, 2))
    assert not is_linear(Special(2, 2))
    assert not is_linear(nn.MultiheadAttention(4, 2).out_proj)
    with torch.inference_mode(False):
        normalised: Any = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert not is_linear(normalised)


@METHODS
def test_a_transformer_computes_with_the_quantised_layers(method, monkeypatch):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    original = nn.TransformerEncoder(layer, 2).eval()
    quantized = quantize(copy.deepcopy(original), method)
    calls: list[Any] = []
    if method == "int8-dynamic":
        forward = Int8Linear.forward

        def counted(self: Int8Linear, rows: Tensor) -> Tensor:
            calls.append(self)
            return forward(self, rows)

        monkeypatch.setattr(Int8Linear, "forward", counted)
    batch = torch.randn(3, 7, 32)
    torch.testing.assert_close(quantized(batch), original(batch), rtol=0, atol=0.1)
    assert len(calls) == (4 if method == "int8-dynamic" else 0)


def test_memory_is_that_of_parameters_and_buffers_each_once():
    assert bytes_of(nn.Linear(3, 2)) == 4 * (3 * 2 + 2)
    assert bytes_of(nn.BatchNorm1d(5)) == 4 * 4 * 5 + 8
    assert bytes_of(Tied()) == 4 * (3 * 3 + 3 + 3)


def test_without_torchao_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(LoadError, match=r"pip install 'batchserve\[quantize\]'"):
        quantize(large(), "int8-weight-only")
    # The other does not need it on a CPU.
    assert quantize(large(), "int8-dynamic")


@METHODS
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
async def test_a_quantised_model_is_served(serve, method, precision):
    client = await serve(quantize=method, precision=precision)
    batch = torch.randn(4, 10)
    response = await client.post("/predict", json={"inputs": batch.tolist()})
    outputs = torch.tensor((await response.json())["outputs"])
    torch.testing.assert_close(outputs, tiny()(batch), rtol=0, atol=0.03)


async def test_a_quantised_model_is_reproducible(serve):
    client = await serve(quantize="int8-dynamic", reproducible=True)
    assert (await client.post("/predict", json={"input": [1.0] * 10})).status == 200


def test_quantising_comes_before_compiling(configure):
    (config,) = configure(quantize="int8-dynamic", compile=True).models
    placed: Any = place_module(load_module(config), config, torch.device("cpu"))
    assert isinstance(placed.module[0], Int8Linear)


def test_convolutions_stay_as_they_are():
    quantized: Any = quantize(convolved(), "int8-dynamic")
    assert isinstance(quantized.fc, Int8Linear)
    assert quantized.conv.weight.dtype == torch.float32

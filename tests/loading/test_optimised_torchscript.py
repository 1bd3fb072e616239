"""TorchScript with `compile: true`: other code, and the same answers."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchserve.batch import Terms
from batchserve.errors import LoadError
from batchserve.loading import load_module, place_module, torchscript
from batchserve.loading.quantize import bytes_of
from batchserve.repository import ModelRepository, State
from tests.loading.models import Tied, convolved

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit")
CPU = torch.device("cpu")
SIZES = (1, 2, 3, 8, 17)


def perceptron() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Dropout(), nn.Linear(30, 5)).eval()


def tied() -> nn.Module:
    torch.manual_seed(7)
    return Tied().eval()


class Counts(nn.Module):
    """Answers otherwise each time."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, batch: Tensor) -> Tensor:
        self.passes += 1
        out: Tensor = self.fc(batch) + self.passes
        return out


with warnings.catch_warnings():
    warnings.simplefilter("ignore")

    @torch.jit.interface
    class Layer(nn.Module):
        """Any that takes and returns a tensor."""

        def forward(self, batch: Tensor) -> Tensor:  # type: ignore[empty-body]
            pass


class One(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return 2 * batch


class Chooses(nn.Module):
    """Has a layer chosen by what comes, which cannot be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([One(), One()])

    def forward(self, batch: Tensor) -> Tensor:
        layer: Layer = self.layers[batch.shape[0] % 2]  # type: ignore[assignment]
        return layer.forward(batch)


def frozen_identity() -> Any:
    return torch.jit.freeze(torch.jit.script(nn.Identity().eval()))


def scripted(module: nn.Module, _example: Tensor) -> Any:
    return torch.jit.script(module)


def traced(module: nn.Module, example: Tensor) -> Any:
    return torch.jit.trace(module, example)


def frozen(module: nn.Module, _example: Tensor) -> Any:
    return torch.jit.freeze(torch.jit.script(module))


@pytest.fixture
def place(configure, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that saves a module, and makes it ready as some keys say."""

    def place(module: Any, **keys) -> Any:
        torch.jit.save(module, tmp_path / "model.pt")
        (config,) = configure(source="model.pt", **{"compile": True, **keys}).models
        return place_module(load_module(config), config, CPU)

    return place


def operations(module: Any) -> set[str]:
    return {node.kind() for node in module.graph.nodes()}


def assert_same_answers(placed: Any, module: Any, shape: tuple[int, ...], share: float) -> None:
    """Compare them, three times for each size: the first passes of a graph run other code."""
    for size in SIZES:
        batch = torch.randn(size, *shape)
        with torch.inference_mode():
            for _ in range(3):
                expected = module(batch)
                difference = (placed(batch) - expected).abs().max()
                assert difference <= share * expected.abs().max()


@pytest.mark.parametrize("channels_last", [None, True])
@pytest.mark.parametrize("make", [scripted, traced, frozen])
@pytest.mark.parametrize(
    ("build", "shape"), [(convolved, (3, 8, 8)), (perceptron, (20,)), (tied, (3,))]
)
def test_answers_stay_the_same_in_batches_of_any_size(place, build, shape, make, channels_last):
    module = build()
    placed = place(make(module, torch.zeros(2, *shape)), channels_last=channels_last)
    assert_same_answers(placed, module, shape, share=1e-4)


def test_layers_are_folded_and_weights_packed(place):
    found = operations(place(torch.jit.script(convolved())))
    assert "prim::mkldnn_convolution" in found
    assert not found & {"aten::batch_norm", "aten::conv2d", "aten::linear"}


def test_weights_are_not_here_twice(place):
    module = perceptron()
    placed = place(torch.jit.script(module))
    assert bytes_of(placed) == bytes_of(module)
    assert list(placed.parameters()) == []
    packed = bytes_of(place(torch.jit.script(convolved())))
    assert 0 < packed <= bytes_of(convolved())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize(("build", "shape"), [(convolved, (3, 8, 8)), (perceptron, (20,))])
def test_in_half_precision_nothing_is_packed(place, precision, dtype, build, shape):
    placed = place(torch.jit.script(build()), precision=precision)
    assert "aten::linear" in operations(placed)
    batch = torch.randn(5, *shape)
    with torch.inference_mode():
        expected = build()(batch)
        difference = (placed(batch.to(dtype)).float() - expected).abs().max()
    assert difference <= 0.02 * expected.abs().max()


def test_a_module_frozen_in_half_precision(place):
    module = perceptron().to(torch.bfloat16)
    placed = place(torch.jit.freeze(torch.jit.script(module)), precision="bf16")
    batch = torch.randn(5, 20, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(placed(batch), module(batch))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_elsewhere_than_on_a_cpu_nothing_is_packed(device):
    script = torch.jit.script(perceptron())
    optimised = torchscript.optimised(script, torch.device(device), torch.float32)
    assert "aten::linear" in operations(optimised)
    assert list(optimised.parameters()) == []


@pytest.mark.parametrize(
    "pool",
    [nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d((1, 3)), nn.MaxPool2d(2, dilation=2)],
    ids=["to four", "to three", "with gaps"],
)
@pytest.mark.parametrize("make", [scripted, traced])
def test_what_onednn_pools_for_some_sizes_only_answers_for_all(place, pool, make):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool).eval()
    placed = place(make(module, torch.zeros(1, 3, 8, 8)))
    assert_same_answers(placed, module, (3, 9, 13), share=1e-4)


def test_pooling_to_one_number_keeps_weights_packed(place):
    layers = [nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)]
    module = nn.Sequential(*layers).eval()
    placed = place(torch.jit.script(module))
    assert "prim::mkldnn_convolution" in operations(placed)
    assert_same_answers(placed, module, (3, 9, 13), share=1e-4)


def test_what_a_pass_changes_is_no_constant(place):
    torch.manual_seed(7)
    module = Counts().eval()
    placed = place(torch.jit.script(module))
    assert_same_answers(placed, module, (3,), share=1e-4)


def test_a_module_that_was_never_in_a_file_may_be_frozen_already(configure):
    source = "tests.loading.test_optimised_torchscript:frozen_identity"
    (config,) = configure(source=source, compile=True).models
    placed = place_module(load_module(config), config, CPU)
    assert placed(torch.ones(2)).tolist() == [1, 1]


def test_what_cannot_be_frozen_is_refused_with_what_to_do(place):
    module = torch.jit.script(Chooses().eval())
    with pytest.raises(LoadError) as caught:
        place(module)
    assert str(caught.value) == (
        "model tiny: compile: true freezes TorchScript, and this module cannot be frozen: Freezing "
        "modules containing prim::ModuleContainerIndex is not supported; leave it out"
    )
    assert place(module, compile=False)(torch.ones(2)).tolist() == [2, 2]


async def test_it_is_served_without_a_compiler(configure, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.jit.script(convolved()).save(tmp_path / "model.pt")
    config = configure(
        source="model.pt", compile=True, input_shape=[3, 8, 8], device="cpu",
        batching={"max_batch_size": 4},
    )  # fmt: skip
    repository = ModelRepository(config.models, threads=1)
    with caplog.at_level("INFO"):
        await repository.load()
    (version,) = repository.versions
    assert version.state is State.READY
    assert "warm-up: batch of  4 of 4 in " in caplog.text
    assert "compil" not in caplog.text
    items = [torch.randn(3, 8, 8) for _ in range(3)]
    batcher = version.batcher
    by_s = batcher.clock() + 60
    with batcher.arrival(Terms(by_s, by_s)) as arrival:
        arrival.reserve(len(items))
        found = torch.stack([await item.future for item in arrival.submit(items)])
    with torch.inference_mode():
        torch.testing.assert_close(found, convolved()(torch.stack(items)), rtol=0, atol=1e-5)
    await repository.close()
    assert not (tmp_path / "cache").exists()

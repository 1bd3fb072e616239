import re
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.loading import Compiled, load_module, pick_device, place_module
from tests.loading.models import SHARED, torchscript


@pytest.mark.parametrize("name", ["make", "Small", "SHARED"])
def test_what_is_loaded_is_in_evaluation_in_fp32_on_the_cpu(load, name):
    SHARED.train()
    module = load(source=f"tests.loading.models:{name}")
    assert not any(part.training for part in module.modules())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}


def test_the_cpu_is_always_there():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, False, "cuda"), (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_best_that_is_there(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_a_gpu_that_is_there(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(device) == torch.device(device)


@pytest.mark.parametrize(
    ("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:13", 2)]
)
def test_a_gpu_that_is_not_there_is_refused_with_how_many_are(monkeypatch, device, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(LoadError) as caught:
        pick_device(device)
    assert str(caught.value) == (
        f"device: {device} is not there; torch {torch.__version__} sees {count} CUDA devices; "
        f"device: auto takes what there is"
    )


def test_mps_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps")


def test_mps_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(LoadError, match=re.escape("device: mps is not there; device: auto")):
        pick_device("mps")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_precision_of_weights_and_statistics_but_not_of_counters(configure, precision, dtype):
    config = configure(source="tests.loading.models:make", precision=precision).models[0]
    placed = place_module(load_module(config), config, torch.device("cpu"))
    held = placed.state_dict()
    assert held.pop("norm.num_batches_tracked").dtype == torch.int64
    assert {value.dtype for value in held.values()} == {dtype}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_answers_nearly_the_same(configure, save, trained, precision):
    weights = save("weights.pt", trained.state_dict())
    config = configure(
        source="tests.loading.models:make", weights=weights, precision=precision
    ).models[0]
    placed = place_module(load_module(config), config, torch.device("cpu"))
    batch = torch.randn(4, 3)
    with torch.inference_mode():
        answer = placed(batch.to(next(placed.parameters()).dtype))
        torch.testing.assert_close(answer.float(), trained(batch), rtol=0.05, atol=0.05)


@torchscript
def test_a_scripted_module_takes_a_precision_too(configure, tmp_path, trained):
    torch.jit.script(trained).save(tmp_path / "model.pt")
    config = configure(source="model.pt", precision="bf16").models[0]
    placed = place_module(load_module(config), config, torch.device("cpu"))
    with torch.inference_mode():
        assert placed(torch.zeros(1, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_module_is_not_compiled_unless_that_is_asked_for(configure, trained):
    config = configure(source="tests.loading.models:make").models[0]
    assert place_module(trained, config, torch.device("cpu")) is trained


def test_a_module_is_compiled_where_that_is_asked_for(configure, trained):
    config = configure(source="tests.loading.models:make", compile=True).models[0]
    compiled = place_module(trained, config, torch.device("cpu"))
    assert isinstance(compiled, Compiled)
    assert compiled.module is trained


def test_without_a_compiler_nothing_is_compiled(configure, trained, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = configure(source="tests.loading.models:make", compile=True).models[0]
    with pytest.raises(LoadError, match="there is no no-such-compiler"):
        place_module(trained, config, torch.device("cpu"))


@pytest.mark.parametrize("source", ["architecture", "weights"])
def test_a_fine_tuned_model_of_torchvision_has_classes_of_its_own(tmp_path: Path, source):
    trained = resnet18(num_classes=5).eval()
    path = tmp_path / "flowers.pt"
    torch.save(trained.state_dict(), path)
    described = (
        {"source": str(path), "architecture": "torchvision:resnet18"}
        if source == "architecture"
        else {"source": "torchvision:resnet18", "weights": str(path)}
    )
    module = load_module(ModelConfig.model_validate({"name": "flowers", **described}))
    batch = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(module(batch), trained(batch))


def test_channels_last_is_the_order_of_the_weights(configure):
    config = configure(source="torchvision:resnet18", channels_last=True).models[0]
    placed = place_module(load_module(config), config, torch.device("cpu"))
    weights = [weight for weight in placed.parameters() if weight.ndim == 4]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_channels_last_does_not_go_with_a_program(configure, tmp_path, trained):
    program = torch.export.export(trained, (torch.zeros(4, 3),))
    torch.export.save(program, tmp_path / "model.pt2")
    config = configure(source="model.pt2", trust=True, channels_last=True).models[0]
    with pytest.raises(LoadError, match="channels_last: true does not go with a program"):
        place_module(load_module(config), config, torch.device("cpu"))

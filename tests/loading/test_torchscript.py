import zipfile
from typing import Any

import pytest
import torch
from torch import nn

from batchserve.errors import LoadError
from batchserve.loading import load_module, place_module
from batchserve.loading import torchscript as torchscript_loading
from tests.loading.models import Small, assert_same, torchscript


@torchscript
@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_a_scripted_module(load, tmp_path, trained, suffix):
    torch.jit.script(trained).save(tmp_path / f"model.{suffix}")
    assert_same(load(source=f"model.{suffix}"), trained)


@torchscript
def test_a_traced_module(load, tmp_path, trained):
    torch.jit.save(torch.jit.trace(trained, torch.zeros(1, 3)), tmp_path / "model.pt")
    assert_same(load(source="model.pt"), trained)


@torchscript
def test_a_scripted_module_in_training_is_put_into_evaluation(load, tmp_path, trained):
    torch.jit.script(trained.train()).save(tmp_path / "model.pt")
    assert_same(load(source="model.pt"), trained.eval())


@torchscript
def test_a_damaged_torchscript_file_is_refused(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"model/{name}", b"")
    assert f"{tmp_path / 'model.pt'} cannot be loaded as TorchScript: " in refused(
        source="model.pt"
    )


def frozen(module: nn.Module) -> Any:
    return torch.jit.freeze(torch.jit.script(module))


@torchscript
def test_a_frozen_module(load, tmp_path, trained):
    torch.jit.save(frozen(trained), tmp_path / "model.pt")
    # Freezing folds one layer into another.
    batch = torch.randn(4, 3)
    torch.testing.assert_close(load(source="model.pt")(batch), trained(batch))


@torchscript
@pytest.mark.parametrize(
    ("make", "module", "dtypes"),
    [
        (frozen, Small().eval(), {torch.float32}),
        (frozen, Small().to(torch.bfloat16).eval(), {torch.bfloat16}),
        (torch.jit.script, Small(), set()),
        (frozen, nn.Identity().eval(), set()),
    ],
    ids=["fp32", "bf16", "not frozen", "without weights"],
)
def test_constants_of_a_frozen_module_have_one_precision(make, module, dtypes):
    assert torchscript_loading.constant_dtypes(make(module)) == dtypes


@torchscript
def test_another_precision_than_that_of_frozen_constants_is_refused(configure, tmp_path, trained):
    torch.jit.save(frozen(trained), tmp_path / "model.pt")
    (config,) = configure(source="model.pt", precision="bf16").models
    with pytest.raises(LoadError) as caught:
        place_module(load_module(config), config, torch.device("cpu"))
    assert str(caught.value) == (
        "model tiny: precision: bf16 is not that of the file: the numbers of TorchScript are fixed "
        "when it is made, and these are fp32; set precision: fp32, or make it anew in bf16"
    )


@torchscript
def test_frozen_constants_move_as_the_module_is_read_again(configure, tmp_path, monkeypatch):
    original, read, devices = frozen(nn.Linear(3, 2).eval()), torch.jit.load, []

    def spy(file: Any, map_location: torch.device) -> Any:
        devices.append(map_location)
        return read(file, map_location=map_location)

    torch.jit.save(original, tmp_path / "model.pt")
    (config,) = configure(source="model.pt").models
    loaded = load_module(config)
    monkeypatch.setattr(torch.jit, "load", spy)
    placed = place_module(loaded, config, torch.device("cpu", 0))
    assert devices == [torch.device("cpu", 0)]
    assert placed is not loaded
    assert_same(placed, original)


@torchscript
def test_torchscript_cannot_be_quantised(configure, tmp_path, trained):
    torch.jit.script(trained).save(tmp_path / "model.pt")
    (config,) = configure(source="model.pt", quantize="int8-dynamic").models
    with pytest.raises(LoadError, match="does not go with TorchScript, whose graph is fixed when"):
        place_module(load_module(config), config, torch.device("cpu"))

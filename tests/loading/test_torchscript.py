import zipfile

import pytest
import torch

from tests.loading.models import assert_same, torchscript


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

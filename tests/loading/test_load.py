import hashlib
from pathlib import Path

import pytest
import torch

from tests.loading.models import assert_same


def test_a_source_that_is_not_there_is_named_with_where_paths_begin(refused, tmp_path):
    assert refused(source="absent.pt") == (
        f"model tiny: there is no file {tmp_path / 'absent.pt'}; a path is relative to the "
        f"config's folder"
    )


def test_a_folder_is_no_source(refused, tmp_path):
    assert f"{tmp_path} is a folder; name the file in it" in refused(source=".")


def test_weights_that_are_not_there_are_named(refused, tmp_path):
    assert refused(source="tests.loading.models:make", weights="absent.pt").startswith(
        f"model tiny: there is no file {tmp_path / 'absent.pt'}; "
    )


@pytest.mark.parametrize("name", ["model:v2.pt", "./model:v2", "model v2", "modèle.pt"])
def test_a_file_may_be_called_anything(load, save, trained, name):
    save(name, trained.state_dict())
    assert_same(load(source=name, architecture="tests.loading.models:make"), trained)


def test_a_damaged_file_is_refused(refused, save, tmp_path, trained):
    path = tmp_path / save("model.pt", trained.state_dict())
    content = bytearray(path.read_bytes())
    at = content.index(b"fc.weight")
    content[at - 20 : at] = bytes(20)
    path.write_bytes(content)
    message = refused(source="model.pt", architecture="tests.loading.models:make")
    assert message.startswith(f"model tiny: {path} ")


def test_the_stated_checksum_lets_the_file_pass(load, save, tmp_path, trained):
    path = tmp_path / save("model.pt", trained.state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load(
        source="model.pt", architecture="tests.loading.models:make", sha256=digest.upper()
    )
    assert_same(loaded, trained)


def test_a_file_with_another_checksum_is_not_even_opened(refused, tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(b"not a model")
    assert refused(source="model.pt", sha256="0" * 64).startswith(
        f"model tiny: {tmp_path / 'model.pt'} is another file than was meant: its SHA-256 is "
    )


def test_an_entry_is_for_a_project_only(refused, save, tmp_path, trained):
    save("model.pt", trained.state_dict())
    assert refused(source="model.pt", entry="model:build") == (
        f"model tiny: entry is for a zip of a project, and {tmp_path / 'model.pt'} is a file of "
        f"torch.save; leave it out"
    )


def test_weights_beside_a_file_are_refused(refused, save, tmp_path, trained):
    save("model.pt", trained.state_dict())
    assert refused(source="model.pt", weights="other.pt") == (
        f"model tiny: weights is for torchvision:NAME, package.module:callable and a zip of a "
        f"project, and {tmp_path / 'model.pt'} is a file of torch.save; leave it out"
    )


def test_what_is_loaded_is_in_evaluation(load, save):
    save("model.pt", torch.nn.Dropout())
    loaded = load(source="model.pt", trust=True)
    assert not loaded.training

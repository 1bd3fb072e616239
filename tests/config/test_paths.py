"""Paths, which are relative to the config, and what only looks like one."""

from pathlib import Path

import pytest

from batchserve.config_file import read_config
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", "model.pt"),
        ("source", "deeper/model.pth"),
        ("source", "../model.pt"),
        ("source", "model:v2.pt"),
        ("source", "./model:v2"),
        ("source", "C:model.pt"),
        ("weights", "weights.pth"),
        ("weights", "deeper/weights.pth"),
        ("weights", "resnet18"),
        ("weights", "WEIGHTS.pth"),
        ("labels", "labels.txt"),
        ("labels", "imagenet.txt"),
        ("labels", "deeper/labels.json"),
    ],
)
def test_a_path_is_relative_to_the_folder_of_the_config(read, tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(ROOT)
    assert getattr(read(**{key: value}).models[0], key) == str(tmp_path / value)


def test_a_config_named_by_a_relative_path_gives_absolute_ones(tmp_path, monkeypatch):
    folder = tmp_path / "deeper"
    folder.mkdir()
    (folder / "config.yaml").write_text("models: [{name: one, source: model.pt}]")
    monkeypatch.chdir(tmp_path)
    config = read_config(Path("deeper/config.yaml"), {})
    assert config.models[0].source == str(folder / "model.pt")


@pytest.mark.parametrize("key", ["source", "weights", "labels"])
def test_an_absolute_path_stays(read, key):
    assert getattr(read(**{key: "/models/one.pt"}).models[0], key) == "/models/one.pt"


@pytest.mark.parametrize("key", ["source", "weights", "labels"])
def test_a_tilde_is_the_home_folder(read, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/someone")
    assert getattr(read(**{key: "~/one.pt"}).models[0], key) == "/home/someone/one.pt"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", "torchvision:resnet18"),
        ("source", "package.module:callable"),
        ("source", "package.module:"),
        ("source", "https://example.org/model.pt"),
        ("source", "http://localhost:9000/model.pt"),
        ("architecture", "torchvision:resnet18"),
        ("architecture", "package.module:callable"),
        ("weights", "DEFAULT"),
        ("weights", "IMAGENET1K_V2"),
        ("weights", "COCO_WITH_VOC_LABELS_V1"),
        ("labels", "imagenet"),
        ("labels", ["cat", "dog.txt"]),
        ("task", "package.module:Class"),
    ],
)
def test_a_name_is_no_path(read, key, value):
    assert getattr(read(**{key: value}).models[0], key) == value


@pytest.mark.parametrize("key", ["architecture", "weights", "labels"])
def test_null_is_no_path(read, key):
    assert getattr(read(**{key: None}).models[0], key) is None


def test_paths_from_the_environment_are_relative_to_the_config_too(read, tmp_path):
    config = read(environ={"BATCHSERVE_MODELS__0__LABELS": "labels.txt"})
    assert config.models[0].labels == str(tmp_path / "labels.txt")

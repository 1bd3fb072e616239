"""Attacks on loading over HTTP: paths that lead out of the folder, and code that nobody allowed."""

import os
from pathlib import Path
from typing import Any

import pytest

from batchserve.config import Config, ModelConfig
from batchserve.errors import Forbidden, InvalidInput
from batchserve.permission import CHECKED, SAFE, permitted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a file in it, and a file beside it."""
    models = tmp_path / "models"
    (models / "deep").mkdir(parents=True)
    for path in (models / "good.pt", models / "deep" / "good.pt", tmp_path / "secret.pt"):
        path.touch()
    (tmp_path / "models-too").mkdir()
    (tmp_path / "models-too" / "other.pt").touch()
    return models


@pytest.fixture
def config(tmp_path: Path, folder: Path) -> Config:
    model = {
        "name": "m",
        "source": "mine:build",
        "task": "mine:Task",
        "labels": "labels.txt",
    }
    other = {"name": "n", "source": "own.pt", "architecture": "mine:net", "weights": None}
    return Config.model_validate(
        {
            "server": {"admin_token": "x" * 16, "model_folder": "models"},
            "models": [model, other],
        },
        context={"folder": tmp_path},
    )


def ask(config: Config, **section: Any) -> ModelConfig:
    return permitted(config, "m:2", {"source": "torchvision:resnet18", **section})


def test_every_key_of_a_model_is_safe_or_looked_at_or_refused():
    """Whoever adds one has to decide; what is in neither list cannot be set over HTTP."""
    refused = {"trust", "entry", "candidate"}
    assert set(ModelConfig.model_fields) == SAFE | set(CHECKED) | refused


# What is allowed.


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"weights": "DEFAULT"},
        {"weights": "IMAGENET1K_V2"},
        {"source": "mine:build"},
        {"task": "image-classification", "labels": "imagenet"},
        {"task": "mine:Task", "labels": ["a", "b"]},
        {"source": "good.pt", "architecture": "torchvision:resnet18"},
        {"source": "good.pt", "architecture": "mine:net"},
        {"source": "good.pt", "architecture": "mine:build"},
        {"source": "mine:net"},
        {"precision": "bf16", "device": "cpu", "batching": {"max_batch_size": 3}},
        {"trust": False},
        {"name": "m", "version": 2},
    ],
    ids=str,
)
def test_what_harms_nobody_is_allowed(config, section):
    model = ask(config, **section)
    assert (model.name, model.version) == ("m", "2")


@pytest.mark.parametrize("path", ["good.pt", "./good.pt", "deep/good.pt", "deep/../good.pt"])
def test_a_path_within_the_folder_is_allowed(config, folder, path):
    assert ask(config, source=path).source == os.path.realpath(folder / path)
    assert ask(config, source=str(folder / path)).source == os.path.realpath(folder / path)


def test_a_link_within_the_folder_is_followed_now_and_not_later(config, folder):
    (folder / "link.pt").symlink_to(folder / "good.pt")
    assert ask(config, source="link.pt").source == str(folder / "good.pt")


def test_what_the_config_file_names_itself_is_allowed(config, tmp_path):
    own = str(tmp_path / "own.pt")
    assert ask(config, source=own).source == own
    labels = str(tmp_path / "labels.txt")
    assert ask(config, labels=labels).labels == labels


# What is not.

OUT = [
    "../secret.pt",
    "deep/../../secret.pt",
    "/etc/passwd",
    "/proc/self/environ",
    "~/secret.pt",
    "../models-too/other.pt",
    "..",
    "link.pt",
    "linked/secret.pt",
    "./link-to-link.pt",
]


@pytest.mark.parametrize("key", ["source", "weights", "labels"])
@pytest.mark.parametrize("path", OUT)
def test_a_path_that_leads_out_of_the_folder_is_refused(config, folder, key, path):
    (folder / "link.pt").symlink_to(folder.parent / "secret.pt")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "link-to-link.pt").symlink_to("link.pt")
    with pytest.raises(Forbidden, match=r"is not within server\.model_folder") as caught:
        ask(config, **{key: path})
    assert "an operator may move the file there" in str(caught.value)


@pytest.mark.parametrize("key", ["source", "weights", "labels"])
def test_without_a_folder_no_file_is_loaded(config, key):
    server = config.server.model_copy(update={"model_folder": None})
    bare = config.model_copy(update={"server": server})
    for path in ("good.pt", "/etc/passwd", "."):
        with pytest.raises(Forbidden, match=r"may set server\.model_folder"):
            ask(bare, **{key: path})


@pytest.mark.parametrize(
    "section",
    [
        {"source": "os:system"},
        {"source": "mine:other"},
        {"source": "mine:Task"},  # named as a task, not as a source
        {"source": "https://example.com/model.pt"},
        {"source": "good.pt:x"},
        {"architecture": "os:system"},
        {"architecture": "mine:Task"},
        {"task": "os:system"},
        {"task": "mine:build"},
        {"weights": "a:b"},
        {"labels": "https://example.com/labels.txt"},
    ],
    ids=str,
)
def test_code_and_addresses_that_the_config_file_does_not_name_are_refused(config, section):
    (key,) = section
    with pytest.raises(Forbidden, match=f"^{key}: ") as caught:
        ask(config, **section)
    assert "operator may" in str(caught.value)


@pytest.mark.parametrize("section", [{"trust": True}, {"entry": "model:build"}], ids=str)
def test_what_runs_the_code_of_a_file_is_refused(config, section):
    (key,) = section
    with pytest.raises(Forbidden, match=f"{key} cannot be set over HTTP; an operator may list"):
        ask(config, source="good.pt", **section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"version": "3"}, "version: the path says '2', the body '3'"),
        ({"name": "other"}, "name: the path says 'm', the body 'other'"),
        ({"precison": "bf16"}, "precison: unknown key; did you mean 'precision'"),
        ({"source": 7}, "source: Input should be a valid string"),
        ({"source": ""}, "source: "),
        ({"candidate": {"share": 0.1}}, "once it is loaded, PUT /admin/models/m/candidate"),
        ({"device": "tpu"}, r"device: write auto, cpu, .* \(it is 'tpu'\)"),
        ({"batching": {"max_wait_ms": 60_000}}, "batching.max_wait_ms .* is not below"),
        ({"slo_ms": 99_999}, "slo_ms .* is above"),
        ({"source": "good\0.pt"}, "source: .* is no path"),
        ({"architecture": "resnet18"}, "write torchvision:resnet18 or"),
    ],
)
def test_what_makes_no_sense_is_told_by_its_key(config, section, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        ask(config, **section)
    assert "models.0" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "a\n"])
def test_names_are_names(config, name):
    with pytest.raises(InvalidInput, match=r"^(name|version): "):
        permitted(config, f"{name}:1", {"source": "torchvision:resnet18"})
    with pytest.raises(InvalidInput, match=r"^(name|version): "):
        permitted(config, f"m:{name}", {"source": "torchvision:resnet18"})

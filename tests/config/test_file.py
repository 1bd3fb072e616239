"""The file: YAML, and what else may be found in its place."""

import re
from pathlib import Path

import pytest

from batchserve.config import BatchingConfig, ImageConfig, ServerConfig
from batchserve.config_file import read_config, valid_config
from batchserve.errors import ConfigError


def test_json_is_yaml_too(read):
    config = read(text='{"models": [{"name": "one", "source": "tests.models:tiny"}]}')
    assert config.models[0].name == "one"


@pytest.mark.parametrize("section", ["server", "image", "batching"])
def test_a_section_whose_keys_are_all_commented_out_has_its_defaults(read, section):
    indented = section if section == "server" else f"    {section}"
    config = read(
        text="models:\n  - name: one\n    source: tests.models:tiny\n"
        f"{indented}:\n      # nothing\n"
    )
    found = config.server if section == "server" else getattr(config.models[0], section)
    assert (
        found
        == {"server": ServerConfig, "image": ImageConfig, "batching": BatchingConfig}[section]()
    )


@pytest.mark.parametrize(
    "text", ["models: [", "a: b: c", "\tmodels: []", "models: !!python/object:os.system {}"]
)
def test_bad_yaml_is_refused_with_its_place(refused, tmp_path, text):
    message = refused(text=text)
    assert message.startswith(f"{tmp_path / 'config.yaml'} cannot be read as YAML: ")
    assert "line 1" in message


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00\xff")
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read as YAML: .*decode"):
        read_config(path, {})


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"{re.escape(str(tmp_path))} cannot be read"):
        read_config(tmp_path, {})


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "absent.yaml"
    with pytest.raises(ConfigError, match=f"there is no file {re.escape(str(path))}; "):
        read_config(path, {})


@pytest.mark.parametrize(
    ("text", "found"),
    [("[1]", "[1]"), ("models", "'models'"), ("7", "7")],
)
def test_what_is_no_mapping_is_refused_with_the_keys_that_belong_there(refused, text, found):
    assert refused(text=text).endswith(
        f"config.yaml must hold the keys server and models, not {found}"
    )


def test_an_empty_file_is_called_that(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("# nothing", encoding="utf-8")
    with pytest.raises(ConfigError, match="is empty; it must hold the key models"):
        read_config(path, {})


def test_what_the_master_found_valid_is_what_the_workers_get(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "models: [{name: one, source: model.pt, image: {crop: 99}, task: image-classification}]",
        encoding="utf-8",
    )
    config = read_config(path, {})
    path.write_text("broken", encoding="utf-8")
    handed_over = {
        "BATCHSERVE_CONFIG": str(path),
        "BATCHSERVE_VALID_CONFIG": config.model_dump_json(exclude_unset=True),
    }
    received = valid_config(handed_over)
    assert received == config
    # What was not stated may still come from elsewhere.
    assert received.models[0].image.model_fields_set == {"crop"}
    assert received.models[0].source == str(tmp_path / "model.pt")

"""From what is recommended to a config, and into its file."""

from pathlib import Path

import pytest
import yaml

from batchserve.config import Config
from batchserve.config_file import read_config
from batchserve.errors import ConfigError
from batchserve.tuning.changes import Changes, changes_for
from batchserve.tuning.variant import Variant
from batchserve.tuning.writing import write_changes
from tests.tuning.outcomes import PLAIN, outcome

TEXT = """\
# What we serve.
server:
  workers: 1   # one is enough

models:
  - name: other
    source: 'tests.models:tiny'   # ours
  - name: mlp
    source: tests.models:tiny
    precision: fp32   # fp32 | bf16

    # How it batches.
    batching:
      max_wait_ms: 1
"""


def config(**model) -> Config:
    described = {"name": "mlp", "source": "tests.models:tiny", **model}
    return Config.model_validate({"server": {"torch_threads": 2}, "models": [described]})


def test_only_what_differs_is_a_change():
    best = outcome(Variant("bf16", channels_last=True, compile=True), {4: 0.1}, threads=2)
    changes = changes_for(best, config(precision="bf16"), 0)
    assert changes == Changes(
        0,
        "mlp",
        model={"compile": True, "channels_last": True},
        batching={"max_batch_size": 4},
    )


def test_what_costs_speed_is_taken_back():
    stated = config(compile=True, channels_last=True, quantize="int8-dynamic")
    changes = changes_for(outcome(PLAIN, {1: 0.1}), stated, 0)
    assert changes.model == {"quantize": None, "compile": False, "channels_last": False}
    assert changes.server == {"torch_threads": 1}


def test_an_order_in_memory_that_nobody_stated_is_left_to_the_warm_up():
    stated = config(batching={"max_batch_size": 1})
    assert not changes_for(outcome(PLAIN, {1: 0.1}, threads=2), stated, 0)


def test_an_order_in_memory_is_stated_where_the_warm_up_would_take_the_other():
    compiled = outcome(Variant(compile=True), {1: 0.1})
    assert changes_for(compiled, config(), 0, orders_tried=True).model == {
        "compile": True,
        "channels_last": False,
    }
    assert changes_for(compiled, config(), 0).model == {"compile": True}


def test_threads_are_left_alone_where_other_models_have_them_too():
    models = [{"name": name, "source": "tests.models:tiny"} for name in "ab"]
    both = Config.model_validate({"server": {"torch_threads": 7}, "models": models})
    changes = changes_for(outcome(PLAIN, {1: 0.1}), both, 1)
    assert (changes.name, changes.server) == ("b", {})


def test_the_lines_are_a_config():
    best = outcome(Variant(quantize="int8-dynamic", compile=True), {8: 0.1})
    changes = changes_for(best, config(), 0)
    assert yaml.safe_load(changes.yaml) == {
        "server": {"torch_threads": 1},
        "models": [
            {
                "name": "mlp",
                "quantize": "int8-dynamic",
                "compile": True,
                "batching": {"max_batch_size": 8},
            }
        ],
    }


def test_a_files_comments_and_order_stay(tmp_path: Path):
    path = tmp_path / "my.yaml"
    path.write_text(TEXT)
    changes = Changes(
        1,
        "mlp",
        {"torch_threads": 1},
        {"precision": "bf16", "compile": True},
        {"max_batch_size": 4},
    )
    write_changes(path, changes)
    before, after = TEXT.splitlines(), path.read_text().splitlines()
    new = [line for line in after if line not in before]
    assert [line.split("#")[0].strip() for line in new] == [
        "torch_threads: 1", "precision: bf16", "max_batch_size: 4", "compile: true",
    ]  # fmt: skip
    gone = [line for line in before if line not in after]
    assert gone == ["    precision: fp32   # fp32 | bf16"]
    model = read_config(path, {}).models[1]
    assert (model.precision, model.compile, model.batching.max_batch_size) == ("bf16", True, 4)
    assert model.batching.max_wait_ms == 1
    assert [*tmp_path.iterdir()] == [path]


def test_sections_that_are_not_there_are_added(tmp_path: Path):
    path = tmp_path / "my.yaml"
    path.write_text("models: [{name: a, source: 'tests.models:tiny'}]\n")
    write_changes(path, Changes(0, "a", {"torch_threads": 1}, {}, {"max_batch_size": 2}))
    written = read_config(path, {})
    assert written.server.torch_threads == 1
    assert written.models[0].batching.max_batch_size == 2


def test_a_section_that_two_models_share_is_not_changed(tmp_path: Path):
    path = tmp_path / "my.yaml"
    text = (
        "models:\n- {name: a, source: 'm:a', batching: &shared {max_wait_ms: 1}}\n"
        "- {name: b, source: 'm:b', batching: *shared}\n"
    )
    path.write_text(text)
    with pytest.raises(ConfigError, match="shared by other models"):
        write_changes(path, Changes(0, "a", batching={"max_batch_size": 2}))
    assert path.read_text() == text


def test_what_would_not_be_valid_is_not_written(tmp_path: Path):
    path = tmp_path / "my.yaml"
    path.write_text(TEXT)
    with pytest.raises(ConfigError, match="max_queue_size"):
        write_changes(path, Changes(1, "mlp", batching={"max_batch_size": 500}))
    assert path.read_text() == TEXT

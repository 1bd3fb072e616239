"""The whole configuration: several models, candidates, and what may not be changed."""

import pytest
import yaml
from pydantic import ValidationError

from batchserve.config import BatchingConfig, Config, ServerConfig
from tests.config.listed import mistakes_in


def test_the_shipped_config_is_valid(shipped_config):
    assert [(model.name, model.task) for model in shipped_config.models] == [
        ("efficientnet-lite0", "image-classification")
    ]


def test_the_shipped_config_shows_the_defaults_of_the_server_and_of_batching(shipped_config):
    assert shipped_config.server == ServerConfig()
    assert shipped_config.models[0].batching == BatchingConfig(max_batch_size=8)


def test_versions_of_one_model_and_models_of_one_version_are_distinct(read):
    source = {"source": "tests.models:tiny"}
    models = [
        {"name": "one", "version": 1, **source},
        {"name": "one", "version": 2, **source},
        {"name": "two", "version": 1, **source},
    ]
    config = read(text=yaml.safe_dump({"models": models}))
    assert [(model.name, model.version) for model in config.models] == [
        ("one", "1"),
        ("one", "2"),
        ("two", "1"),
    ]


@pytest.mark.parametrize("version", [1, "1", None])
def test_the_same_name_and_version_twice_is_refused(refused, version):
    twin = {"name": "one", "source": "tests.models:tiny"}
    other = twin if version is None else {**twin, "version": version}
    (line,) = mistakes_in(refused(text=yaml.safe_dump({"models": [twin, other]})))
    assert line == (
        "models: 'one' version '1' is listed twice; give one of them another name or version"
    )


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("models: []", "models"),
        ("models: {}", "models"),
        ("models: one", "models"),
        ("models: [one]", "models.0"),
        ("models: ", "models"),
    ],
)
def test_models_must_be_a_list_of_mappings_and_hold_one(refused, text, where):
    (line,) = mistakes_in(refused(text=text))
    assert line.startswith(f"{where}: ")


@pytest.mark.parametrize("key", ["server", "models", "name"])
def test_a_config_cannot_be_changed(read, key):
    config = read()
    changed = config.models[0] if key == "name" else config
    with pytest.raises(ValidationError, match="frozen"):
        setattr(changed, key, "other")


TRIED = {"name": "one", "version": "2", "source": "tests.models:tiny"}


@pytest.mark.parametrize("candidate", [{"share": 0.1}, {"share": 1}, {"shadow": True}])
def test_a_version_is_a_candidate(candidate):
    models = [{**TRIED, "version": "1"}, {**TRIED, "candidate": candidate}]
    found = Config.model_validate({"models": models}).models[1].candidate
    assert found is not None
    assert (found.share, found.shadow) == (candidate.get("share", 0), "shadow" in candidate)
    again = Config.model_validate_json(Config.model_validate({"models": models}).model_dump_json())
    assert again.models[1].candidate == found


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({}, "models.1.candidate: state share, from 0 to 1, or shadow: true, or both"),
        ({"share": 1.5}, "models.1.candidate.share: Input should be less than or equal to 1"),
        ({"share": -0.1}, "models.1.candidate.share: Input should be greater than or equal to 0"),
        ({"share": True}, "models.1.candidate.share: Input should be a valid number"),
        ({"shadow": "yes"}, "models.1.candidate.shadow: Input should be a valid boolean"),
        ({"shar": 1}, "models.1.candidate.shar: unknown key; did you mean 'share'?"),
    ],
)
def test_a_candidate_that_says_nothing_is_refused(refused, candidate, message):
    models = [{**TRIED, "version": "1"}, {**TRIED, "candidate": candidate}]
    (line,) = mistakes_in(refused(text=yaml.safe_dump({"models": models})))
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"candidate": {"share": 1}}], "models.0.candidate: one:2 is the first version"),
        (
            [{}, {"version": "3", "candidate": {"share": 1}},
             {"version": "4", "candidate": {"shadow": True}}],
            "models.2.candidate: one:3 is a candidate, too; a model has one at most",
        ),
        (
            [{}, {"version": "3", "task": "a:B", "candidate": {"share": 1}}],
            "models.1.candidate: its task is a:B, and that of one:2 is tensor",
        ),
    ],
)  # fmt: skip
def test_a_candidate_is_tried_beside_one_version(refused, changes, message):
    models = [{**TRIED, **change} for change in changes]
    (line,) = mistakes_in(refused(text=yaml.safe_dump({"models": models})))
    assert line.startswith(message)

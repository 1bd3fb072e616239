import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from batchserve.config import BatchingConfig, Config, ImageConfig, ServerConfig
from batchserve.config_file import config_path, read_config, valid_config
from batchserve.errors import ConfigError
from tests.conftest import ROOT

Read = Callable[..., Config]
Refused = Callable[..., str]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that reads a config with those sections, given as Python values."""

    def read(
        server: Any = None, environ: dict[str, str] | None = None, text: str = "", **model
    ) -> Config:
        path = tmp_path / "config.yaml"
        described = {"name": "one", "source": "tests.models:tiny", **model}
        raw = {"models": [described], **({} if server is None else {"server": server})}
        path.write_text(text or yaml.safe_dump(raw), encoding="utf-8")
        return read_config(path, environ or {})

    return read


@pytest.fixture
def refused(read: Read) -> Refused:
    """Return a function that does the same, and returns the message of its refusal."""

    def refused(*args, **kwargs) -> str:
        with pytest.raises(ConfigError) as caught:
            read(*args, **kwargs)
        return str(caught.value)

    return refused


# What is valid


def test_the_shipped_config_is_valid(shipped_config):
    assert [(model.name, model.task) for model in shipped_config.models] == [
        ("efficientnet-lite0", "image-classification")
    ]


def test_the_shipped_config_shows_the_defaults_of_the_server_and_of_batching(shipped_config):
    assert shipped_config.server == ServerConfig()
    assert shipped_config.models[0].batching == BatchingConfig(max_batch_size=8)


def test_defaults_of_the_server():
    assert ServerConfig().model_dump() == {
        "bind": "127.0.0.1:8000",
        "workers": 1,
        "accesslog": "-",
        "errorlog": "-",
        "log_format": "text",
        "max_body_mb": 16,
        "default_timeout_ms": 30_000,
        "drain_seconds": 10,
        "grace_seconds": 1,
        "max_requests": None,
        "hang_seconds": 60,
        "torch_threads": None,
        "decode_threads": None,
        "otel_endpoint": None,
        "fetch": {"hosts": (), "networks": (), "timeout_ms": 5000},
        "admin_token": None,
        "admin_bind": None,
        "model_folder": None,
        "state": "batchserve-state.db",
        "api_keys": None,
        "tls": None,
    }


def test_defaults_of_a_model(read):
    model = read().models[0]
    assert model.model_dump(exclude={"image", "batching"}) == {
        "name": "one",
        "source": "tests.models:tiny",
        "entry": None,
        "sha256": None,
        "architecture": None,
        "weights": None,
        "trust": False,
        "version": "1",
        "task": "tensor",
        "labels": None,
        "input_shape": None,
        "input_dtype": "float32",
        "slo_ms": None,
        "device": "auto",
        "precision": "fp32",
        "quantize": None,
        "channels_last": None,
        "compile": False,
        "cuda_graphs": True,
        "autotune": False,
        "reproducible": False,
        "candidate": None,
    }


def test_defaults_of_batching_and_of_images(read):
    model = read().models[0]
    assert model.batching.model_dump() == {
        "max_batch_size": None,
        "max_wait_ms": 2,
        "policy": "adaptive",
        "max_queue_size": 256,
    }
    assert model.image.model_dump() == {
        "resize": 256,
        "crop": 224,
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "max_megapixels": 50,
    }


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:80", "localhost:0", "[::1]:65535", "unix:/run/a.sock", "unix:relative.sock"]
)
def test_addresses_to_bind(read, bind):
    assert read(server={"bind": bind}).server.bind == bind


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:13"])
def test_devices(read, device):
    assert read(device=device).models[0].device == device


@pytest.mark.parametrize(("megabytes", "size"), [(16, 16 * 1024 * 1024), (0.5, 512 * 1024)])
def test_the_limit_of_bodies_in_bytes(read, megabytes, size):
    assert read(server={"max_body_mb": megabytes}).server.max_body_bytes == size


@pytest.mark.parametrize(("version", "text"), [(1, "1"), (1.5, "1.5"), ("v2.0-rc_1", "v2.0-rc_1")])
def test_a_version_that_yaml_reads_as_a_number_is_text(read, version, text):
    assert read(version=version).models[0].version == text


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


def test_a_queue_of_just_one_batch_is_enough(read):
    batching = {"max_batch_size": 8, "max_queue_size": 8}
    assert read(batching=batching).models[0].batching.max_queue_size == 8


def test_json_is_yaml_too(read):
    config = read(text='{"models": [{"name": "one", "source": "tests.models:tiny"}]}')
    assert config.models[0].name == "one"


@pytest.mark.parametrize("key", ["server", "models", "name"])
def test_a_config_cannot_be_changed(read, key):
    config = read()
    changed = config.models[0] if key == "name" else config
    with pytest.raises(ValidationError, match="frozen"):
        setattr(changed, key, "other")


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


# What is refused


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "servr: {}\nmodels: [{name: one, source: a:b}]",
            "servr: unknown key; did you mean 'server'?",
        ),
        (
            "modles: [{name: one, source: a:b}]",
            "modles: unknown key; did you mean 'models'?",
        ),
        (
            "server: {bnd: localhost:1}\nmodels: [{name: one, source: a:b}]",
            "server.bnd: unknown key; did you mean 'bind'?",
        ),
        (
            "models: [{name: one, source: a:b, devise: cpu}]",
            "models.0.devise: unknown key; did you mean 'device'?",
        ),
        (
            "models: [{name: one, source: a:b}, {name: two, source: a:b, lables: imagenet}]",
            "models.1.lables: unknown key; did you mean 'labels'?",
        ),
        (
            "models: [{name: one, source: a:b, batching: {max_bach_size: 4}}]",
            "models.0.batching.max_bach_size: unknown key; did you mean 'max_batch_size'?",
        ),
        (
            "models: [{name: one, source: a:b, image: {resise: 4}}]",
            "models.0.image.resise: unknown key; did you mean 'resize'?",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_known(refused, text, line):
    assert line in _lines(refused(text=text))


@pytest.mark.parametrize(
    ("changes", "where", "known"),
    [
        ({"server": {"zzzzz": 1}}, "server.zzzzz", "bind, workers, accesslog"),
        ({"zzzzz": 1}, "models.0.zzzzz", "name, source, entry"),
        (
            {"batching": {"zzzzz": 1}},
            "models.0.batching.zzzzz",
            "max_batch_size, max_wait_ms, policy, max_queue_size",
        ),
        ({"image": {"zzzzz": 1}}, "models.0.image.zzzzz", "resize, crop, interpolation"),
    ],
)
def test_an_unknown_key_like_no_other_is_answered_with_all_that_are_known(
    refused, changes, where, known
):
    (line,) = _lines(refused(**changes))
    assert line.startswith(f"{where}: unknown key; known are {known}")


@pytest.mark.parametrize(
    ("changes", "where", "value"),
    [
        ({"server": {"workers": "many"}}, "server.workers", "'many'"),
        ({"server": {"workers": 0}}, "server.workers", "0"),
        ({"server": {"workers": 1.5}}, "server.workers", "1.5"),
        ({"server": {"max_body_mb": 0}}, "server.max_body_mb", "0"),
        ({"server": {"default_timeout_ms": -1}}, "server.default_timeout_ms", "-1"),
        ({"server": {"drain_seconds": -1}}, "server.drain_seconds", "-1"),
        ({"server": {"torch_threads": 0}}, "server.torch_threads", "0"),
        ({"server": {"decode_threads": 0}}, "server.decode_threads", "0"),
        ({"server": {"errorlog": None}}, "server.errorlog", "None"),
        ({"server": {"bind": 8000}}, "server.bind", "8000"),
        ({"server": 5}, "server", "5"),
        ({"name": "a b"}, "models.0.name", "'a b'"),
        ({"name": ""}, "models.0.name", "''"),
        ({"name": "-a"}, "models.0.name", "'-a'"),
        ({"name": 5}, "models.0.name", "5"),
        ({"source": ""}, "models.0.source", "''"),
        ({"source": ["a:b"]}, "models.0.source", "['a:b']"),
        ({"version": "a/b"}, "models.0.version", "'a/b'"),
        ({"version": None}, "models.0.version", "None"),
        ({"trust": "perhaps"}, "models.0.trust", "'perhaps'"),
        ({"compile": 7}, "models.0.compile", "7"),
        ({"device": "gpu"}, "models.0.device", "'gpu'"),
        ({"device": "cuda:"}, "models.0.device", "'cuda:'"),
        ({"precision": "fp8"}, "models.0.precision", "'fp8'"),
        ({"input_dtype": "float8"}, "models.0.input_dtype", "'float8'"),
        ({"input_shape": 10}, "models.0.input_shape", "10"),
        ({"input_shape": [0]}, "models.0.input_shape", "[0]"),
        ({"input_shape": [3, -2]}, "models.0.input_shape", "[3, -2]"),
        ({"input_shape": ["a"]}, "models.0.input_shape.0", "'a'"),
        ({"batching": {"max_batch_size": 0}}, "models.0.batching.max_batch_size", "0"),
        ({"batching": {"max_wait_ms": -1}}, "models.0.batching.max_wait_ms", "-1"),
        ({"batching": {"policy": "adaptve"}}, "models.0.batching.policy", "'adaptve'"),
        ({"image": {"resize": 0}}, "models.0.image.resize", "0"),
        ({"image": {"interpolation": "cubic"}}, "models.0.image.interpolation", "'cubic'"),
        ({"image": {"std": [0.2, 0, 0.2]}}, "models.0.image.std", "[0.2, 0, 0.2]"),
        ({"image": {"mean": 0.5}}, "models.0.image.mean", "0.5"),
        ({"image": {"max_megapixels": 0}}, "models.0.image.max_megapixels", "0"),
        ({"labels": 5}, "models.0.labels", "5"),
        ({"source": "http://a.org/m.pt"}, "models.0.source", "'http://a.org/m.pt'"),
        ({"source": "s3://a/m.pt"}, "models.0.source", "'s3://a/m.pt'"),
        ({"source": "file:///m.pt"}, "models.0.source", "'file:///m.pt'"),
        ({"weights": "https://a.org/m.pt"}, "models.0.weights", "'https://a.org/m.pt'"),
        ({"source": "m.pt", "sha256": "abc"}, "models.0.sha256", "'abc'"),
        ({"source": "m.pt", "sha256": 5}, "models.0.sha256", "5"),
        ({"source": "m.zip", "entry": "build"}, "models.0.entry", "'build'"),
        ({"source": "m.zip", "entry": "model.py:build"}, "models.0.entry", "'model.py:build'"),
        ({"source": "m.zip", "entry": "a/model:build"}, "models.0.entry", "'a/model:build'"),
        ({"quantize": "int4"}, "models.0.quantize", "'int4'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_itself(refused, changes, where, value):
    (line,) = _lines(refused(**changes))
    assert re.fullmatch(rf"{re.escape(where)}: .{{10,}} \(it is {re.escape(value)}\)", line)


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"server": {"workers": 0}}, "greater than or equal to 1"),
        ({"server": {"max_body_mb": 0}}, "greater than 0"),
        ({"device": "gpu"}, "write auto, cpu, cuda, cuda:N or mps"),
        ({"architecture": "resnet18"}, "write torchvision:resnet18 or package.module:resnet18"),
        ({"batching": {"max_wait_ms": 30_000}}, "is not below server.default_timeout_ms (30000)"),
        ({"precision": "fp8"}, "'fp32', 'bf16' or 'fp16'"),
        ({"batching": {"policy": "adaptve"}}, "'fixed' or 'adaptive'"),
        ({"image": {"interpolation": "cubic"}}, "'nearest', 'bilinear' or 'bicubic'"),
        ({"image": {"std": [0.2, 0, 0.2]}}, "above 0"),
        ({"input_shape": [0]}, "1 or more, or -1 where it varies"),
        ({"compile": 7}, "boolean"),
        ({"source": "http://a.org/m.pt"}, "http://a.org/m.pt is no safe place for a model: write"),
        ({"weights": "https://a.org/m.pt"}, "a URL goes into source"),
        ({"source": "m.zip", "entry": "build"}, "write module:callable, as in model:build"),
        ({"entry": "model:build"}, "entry is of a file, and source 'tests.models:tiny' is none"),
        ({"sha256": "0" * 64}, "sha256 is of a file, and source 'tests.models:tiny' is none"),
        ({"quantize": "int4"}, "'int8-dynamic' or 'int8-weight-only'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(refused, changes, fix):
    assert fix in refused(**changes)


def test_a_checksum_may_be_in_capitals(read):
    assert read(source="m.pt", sha256="AB" * 32).models[0].sha256 == "ab" * 32


def test_an_entry_may_be_deep(read):
    assert read(source="m.zip", entry="a.b.c:build").models[0].entry == "a.b.c:build"


def test_a_long_value_is_shortened(refused):
    (line,) = _lines(refused(name="x " * 500))
    assert len(line) < 200
    assert line.endswith("…)")


@pytest.mark.parametrize(
    "bind",
    [
        "nonsense",
        ":8000",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "localhost:65536",
        "localhost:-1",
        "unix:",
        "",
    ],
)
def test_a_bad_address_is_refused_with_the_right_forms(refused, bind):
    (line,) = _lines(refused(server={"bind": bind}))
    assert line == (
        f"server.bind: write host:port, as in 127.0.0.1:8000, or unix:PATH (it is {bind!r})"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("models: [{source: a:b}]", "models.0.name: is missing"),
        ("models: [{name: one}]", "models.0.source: is missing"),
        ("server: {workers: 1}", "models: is missing"),
        ("{}", "models: is missing"),
    ],
)
def test_what_is_missing_is_named(refused, text, line):
    assert _lines(refused(text=text)) == [line]


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
    (line,) = _lines(refused(text=text))
    assert line.startswith(f"{where}: ")


def test_a_queue_below_one_batch_is_refused_with_both_keys_both_values_and_the_way_out(refused):
    (line,) = _lines(refused(batching={"max_batch_size": 32, "max_queue_size": 8}))
    assert line == (
        "models.0.batching: max_queue_size (8) is below max_batch_size (32): no batch could ever "
        "be full; raise the one or lower the other"
    )


def test_the_default_queue_counts_too(refused):
    assert "max_queue_size (256) is below max_batch_size (512)" in refused(
        batching={"max_batch_size": 512}
    )


def test_a_small_queue_is_enough_where_the_size_of_a_batch_is_found_out(read):
    assert read(batching={"max_queue_size": 1}).models[0].batching.max_batch_size is None


@pytest.mark.parametrize("batching", [{}, {"max_wait_ms": 1}, {"max_batch_size": None}])
def test_reproducible_needs_a_stated_batch_size(refused, batching):
    (line,) = _lines(refused(reproducible=True, batching=batching))
    assert line == (
        "models.0: reproducible: true pads every batch to batching.max_batch_size, which is not "
        "stated; state it"
    )


def test_reproducible_with_a_batch_size(read):
    assert read(reproducible=True, batching={"max_batch_size": 4}).models[0].reproducible


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
    (line,) = _lines(refused(text=yaml.safe_dump({"models": models})))
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
    (line,) = _lines(refused(text=yaml.safe_dump({"models": models})))
    assert line.startswith(message)


@pytest.mark.parametrize("version", [1, "1", None])
def test_the_same_name_and_version_twice_is_refused(refused, version):
    twin = {"name": "one", "source": "tests.models:tiny"}
    other = twin if version is None else {**twin, "version": version}
    (line,) = _lines(refused(text=yaml.safe_dump({"models": [twin, other]})))
    assert line == (
        "models: 'one' version '1' is listed twice; give one of them another name or version"
    )


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"admin_token": "hunter2"}, "server.admin_token: use at least 16 letters"),
        ({"admin_token": "hunter2 hunter2 hunter2"}, "server.admin_token: use at least 16 letters"),
        ({"admin_token": "hunter2-ünïcödé-hunter2"}, "server.admin_token: use at least 16 letters"),
        ({"admin_token": 1234567890123456}, "server.admin_token: write it in quotes"),
        ({"admin_token": ["hunter2"]}, "server.admin_token: "),
        ({"api_keys": ["hunter2"]}, "server.api_keys.0: use at least 16 letters"),
        ({"api_keys": [1234567890123456]}, "server.api_keys.0: write it in quotes"),
        ({"api_keys": []}, "server.api_keys: "),
        ({"api_keys": "hunter2-hunter2-hunter2"}, "server.api_keys: "),
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(refused, server, message):
    (line,) = _lines(refused(server=server))
    assert line.startswith(message)
    assert "hunter2" not in line
    assert "1234567890123456" not in line


TOKEN = "correct-horse-battery"


def test_secrets_are_shown_nowhere_but_reach_the_workers(read):
    config = read(server={"admin_token": TOKEN, "api_keys": [f"{TOKEN}-2"]})
    for text in (repr(config), str(config.server), config.model_dump_json()):
        assert TOKEN not in text
    handed_over = config.model_dump_json(exclude_unset=True, context={"reveal": True})
    assert Config.model_validate_json(handed_over) == config


@pytest.mark.parametrize("value", ["[hunter2", "{hunter2: ", "'hunter2"])
@pytest.mark.parametrize("key", ["ADMIN_TOKEN", "API_KEYS", "STATE"])
def test_a_secret_in_the_environment_is_not_repeated(refused, key, value):
    message = refused(environ={f"BATCHSERVE_SERVER__{key}": value})
    assert f"BATCHSERVE_SERVER__{key} cannot be read as YAML" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("bind", "admin_bind"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("0.0.0.0:8000", "127.0.0.1:8000"),
        ("unix:a.sock", "unix:a.sock"),
    ],
)
def test_administration_has_an_address_that_can_be_told_apart(refused, bind, admin_bind):
    server = {"bind": bind, "admin_bind": admin_bind, "admin_token": TOKEN}
    (line,) = _lines(refused(server=server))
    assert "must have another port than bind" in line


def test_an_address_for_administration_without_administration_is_refused(refused):
    (line,) = _lines(refused(server={"admin_bind": "127.0.0.1:8001"}))
    assert "of no use without admin_token" in line


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, "{folder}/batchserve-state.db"),
        ({"state": "there.db"}, "{folder}/there.db"),
        ({"state": "/there.db"}, "/there.db"),
        ({"state": "redis://:hunter2@there:6379/1"}, "redis://:hunter2@there:6379/1"),
    ],
)
def test_the_state_lies_beside_the_config(read, tmp_path, stated, expected):
    config = read(server={"admin_token": TOKEN, **stated})
    assert config.server.state == expected.format(folder=tmp_path)
    assert "hunter2" not in repr(config)


def test_other_paths_of_the_server_lie_beside_the_config_too(read, tmp_path):
    tls = {"cert": "cert.pem", "key": "/key.pem"}
    server = read(server={"model_folder": "models", "tls": tls}).server
    assert server.model_folder == str(tmp_path / "models")
    assert (server.tls.cert, server.tls.key) == (str(tmp_path / "cert.pem"), "/key.pem")


@pytest.mark.parametrize("version", [True, False])
def test_a_version_that_yaml_reads_as_a_truth_value_is_refused(refused, version):
    # `version: on` would be served as /models/one/versions/True.
    assert "models.0.version: " in refused(version=version)


def test_an_endless_limit_of_bodies_is_refused(refused):
    assert "server.max_body_mb: " in refused(server={"max_body_mb": float("inf")})


@pytest.mark.parametrize(
    ("server", "model"),
    [
        ({"default_timeout_ms": float("nan")}, {}),
        ({}, {"batching": {"max_wait_ms": float("nan")}}),
        ({}, {"image": {"max_megapixels": float("nan")}}),
    ],
)
def test_not_a_number_is_refused(refused, server, model):
    assert "(it is nan)" in refused(server=server, **model)


def test_several_mistakes_are_listed_all_at_once_below_the_file(refused, tmp_path):
    message = refused(
        server={"bind": "nonsense", "workers": 0, "bnd": "x"},
        name="a b",
        device="gpu",
        batching={"policy": "adaptve", "max_bach_size": 4},
    )
    head, *mistakes = message.splitlines()
    assert head == f"{tmp_path / 'config.yaml'} is not a valid configuration:"
    assert sorted(line.partition(": ")[0].strip() for line in mistakes) == [
        "models.0.batching.max_bach_size",
        "models.0.batching.policy",
        "models.0.device",
        "models.0.name",
        "server.bind",
        "server.bnd",
        "server.workers",
    ]


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


# The environment


@pytest.mark.parametrize(
    ("variable", "value", "look", "expected"),
    [
        ("SERVER__BIND", "0.0.0.0:9000", lambda config: config.server.bind, "0.0.0.0:9000"),
        ("SERVER__WORKERS", "3", lambda config: config.server.workers, 3),
        ("SERVER__ACCESSLOG", "null", lambda config: config.server.accesslog, None),
        ("SERVER__DRAIN_SECONDS", "0.5", lambda config: config.server.drain_seconds, 0.5),
        ("SERVER", "{workers: 3}", lambda config: config.server.workers, 3),
        ("MODELS__0__DEVICE", "cuda:1", lambda config: config.models[0].device, "cuda:1"),
        ("MODELS__0__VERSION", "2", lambda config: config.models[0].version, "2"),
        ("MODELS__0__TRUST", "true", lambda config: config.models[0].trust, True),
        ("MODELS__0__LABELS", "[a, b]", lambda config: config.models[0].labels, ["a", "b"]),
        (
            "MODELS__0__INPUT_SHAPE",
            "[3, -1]",
            lambda config: config.models[0].input_shape,
            (3, -1),
        ),
        (
            "MODELS__0__BATCHING__MAX_BATCH_SIZE",
            "32",
            lambda config: config.models[0].batching.max_batch_size,
            32,
        ),
        (
            "MODELS__0__IMAGE__MEAN",
            "[0, 0, 0]",
            lambda config: config.models[0].image.mean,
            (0, 0, 0),
        ),
    ],
)
def test_the_environment_overrides(read, variable, value, look, expected):
    server = {"bind": "localhost:1", "workers": 2}
    assert look(read(server=server)) != expected
    assert look(read(server=server, environ={f"BATCHSERVE_{variable}": value})) == expected


def test_the_environment_adds_to_sections_that_the_file_has_not(read):
    environ = {"BATCHSERVE_SERVER__WORKERS": "3", "BATCHSERVE_MODELS__0__BATCHING__POLICY": "fixed"}
    config = read(environ=environ)
    assert config.server == ServerConfig(workers=3)
    assert config.models[0].batching == BatchingConfig(policy="fixed")


def test_the_environment_leaves_the_keys_beside_as_they_are(read):
    config = read(
        server={"bind": "localhost:1", "workers": 2},
        batching={"max_batch_size": 4, "max_wait_ms": 7},
        environ={
            "BATCHSERVE_SERVER__BIND": "localhost:2",
            "BATCHSERVE_MODELS__0__BATCHING__MAX_BATCH_SIZE": "5",
        },
    )
    assert config.server == ServerConfig(bind="localhost:2", workers=2)
    assert config.models[0].batching == BatchingConfig(max_batch_size=5, max_wait_ms=7)


def test_the_environment_reaches_the_second_model(read):
    models = [{"name": name, "source": "tests.models:tiny"} for name in ("one", "two")]
    config = read(
        text=yaml.safe_dump({"models": models}), environ={"BATCHSERVE_MODELS__1__DEVICE": "cpu"}
    )
    assert [model.device for model in config.models] == ["auto", "cpu"]


def test_the_environment_is_read_as_given_and_not_from_the_process(read, monkeypatch):
    monkeypatch.setenv("BATCHSERVE_SERVER__BIND", "0.0.0.0:9000")
    assert read().server.bind == "127.0.0.1:8000"


@pytest.mark.parametrize("environ", [{"PATH": "/bin"}, {"SERVER__BIND": "x"}, {"batchserve_x": ""}])
def test_other_variables_are_none_of_ours(read, environ):
    assert read(environ=environ) == read()


def test_the_variable_that_names_the_file_is_no_key(read):
    assert read(environ={"BATCHSERVE_CONFIG": "elsewhere.yaml"}) == read()


@pytest.mark.parametrize("key", ["ACCESSLOG", "ERRORLOG"])
def test_the_environment_may_say_standard_output(read, key):
    # YAML takes a lone dash for a list, which nobody means.
    config = read(server={key.lower(): "file.log"}, environ={f"BATCHSERVE_SERVER__{key}": "-"})
    assert config.server == ServerConfig()


def test_the_environment_fills_a_section_whose_keys_are_all_commented_out(read):
    config = read(
        text="server:\n  # nothing\nmodels: [{name: one, source: tests.models:tiny}]",
        environ={"BATCHSERVE_SERVER__WORKERS": "3"},
    )
    assert config.server.workers == 3


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("SERVER__BND", "server.bnd: unknown key; did you mean 'bind'?"),
        ("SERVR__BIND", "servr: unknown key; did you mean 'server'?"),
        ("MODELS__0__DEVISE", "models.0.devise: unknown key; did you mean 'device'?"),
        (
            "MODELS__0__BATCHING__MAX_BACH_SIZE",
            "models.0.batching.max_bach_size: unknown key; did you mean 'max_batch_size'?",
        ),
        ("BIND", "bind: unknown key; known are server, models, endpoints"),
        ("CONFIG__SERVER", "config: unknown key; known are server, models, endpoints"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_key(refused, variable, line):
    assert line in _lines(refused(environ={f"BATCHSERVE_{variable}": "1"}))


def test_a_wrong_value_in_the_environment_is_refused(refused):
    (line,) = _lines(refused(environ={"BATCHSERVE_SERVER__WORKERS": "many"}))
    assert re.fullmatch(r"server\.workers: .*integer.* \(it is 'many'\)", line)


@pytest.mark.parametrize(
    "variable",
    [
        "MODELS__1__DEVICE",
        "MODELS__X__DEVICE",
        "MODELS__DEVICE",
        "MODELS__0__NAME__FIRST",
        "SERVER__BIND__HOST",
    ],
)
def test_a_variable_that_names_no_place_is_refused_with_examples(refused, variable):
    message = refused(server={"bind": "localhost:1"}, environ={f"BATCHSERVE_{variable}": "cpu"})
    assert message == (
        f"the environment variable BATCHSERVE_{variable} names no place in the configuration; "
        f"write BATCHSERVE_SERVER__BIND or BATCHSERVE_MODELS__0__DEVICE"
    )


def test_a_variable_whose_value_is_bad_yaml_is_not_said_to_name_no_place(refused):
    message = refused(environ={"BATCHSERVE_MODELS__0__LABELS": "[cat, dog"})
    assert "BATCHSERVE_MODELS__0__LABELS" in message
    assert "[cat, dog" in message
    assert "names no place" not in message


def test_what_kubernetes_sets_for_a_service_named_batchserve_is_no_setting(read):
    # It sets these in every pod of the namespace, unless enableServiceLinks is false.
    environ = {
        "BATCHSERVE_SERVICE_HOST": "10.0.0.1",
        "BATCHSERVE_SERVICE_PORT": "8000",
        "BATCHSERVE_SERVICE_PORT_HTTP": "8000",
        "BATCHSERVE_PORT": "tcp://10.0.0.1:8000",
        "BATCHSERVE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "BATCHSERVE_PORT_8000_TCP_PROTO": "tcp",
        "BATCHSERVE_PORT_8000_TCP_PORT": "8000",
        "BATCHSERVE_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert read(environ=environ) == read()


@pytest.mark.parametrize(
    ("environ", "path"),
    [({}, "config.yaml"), ({"BATCHSERVE_CONFIG": "/etc/served.yaml"}, "/etc/served.yaml")],
)
def test_the_environment_names_the_file(environ, path):
    assert config_path(environ) == Path(path)


# Paths


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


# Threads


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 8, 1), (2, 4, 1), (1, 1, 1)],
)
def test_workers_share_the_cores_that_the_process_may_use(monkeypatch, cores, workers, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(100, 100 + cores)))
    server = ServerConfig(workers=workers)
    assert (server.threads_of_forward, server.threads_of_decoding) == (threads, threads)


def test_threads_that_are_named_win(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    server = ServerConfig(workers=2, torch_threads=6, decode_threads=7)
    assert (server.threads_of_forward, server.threads_of_decoding) == (6, 7)


def test_threads_where_the_system_knows_no_affinity(monkeypatch):
    # macOS, where device: mps is at home.
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert ServerConfig(workers=2).threads_of_forward == 4


def _lines(message: str) -> list[str]:
    """Return the mistakes that a message lists, one a line."""
    head, *mistakes = message.splitlines()
    assert head.endswith(" is not a valid configuration:")
    assert all(line.startswith("  ") for line in mistakes)
    return [line.strip() for line in mistakes]


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

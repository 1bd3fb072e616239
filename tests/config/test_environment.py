"""The environment, which is laid over the file."""

import re
from pathlib import Path

import pytest
import yaml

from batchserve.config import BatchingConfig, ServerConfig
from batchserve.config_file import config_path
from tests.config.listed import mistakes_in


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
    assert line in mistakes_in(refused(environ={f"BATCHSERVE_{variable}": "1"}))


def test_a_wrong_value_in_the_environment_is_refused(refused):
    (line,) = mistakes_in(refused(environ={"BATCHSERVE_SERVER__WORKERS": "many"}))
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


@pytest.mark.parametrize("value", ["[hunter2", "{hunter2: ", "'hunter2"])
@pytest.mark.parametrize("key", ["ADMIN_TOKEN", "API_KEYS", "STATE"])
def test_a_secret_in_the_environment_is_not_repeated(refused, key, value):
    message = refused(environ={f"BATCHSERVE_SERVER__{key}": value})
    assert f"BATCHSERVE_SERVER__{key} cannot be read as YAML" in message
    assert "hunter2" not in message

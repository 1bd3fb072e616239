"""What is refused, and with which words: the key, the value, and what would be right."""

import re

import pytest

from tests.config.listed import mistakes_in


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
    assert line in mistakes_in(refused(text=text))


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
    (line,) = mistakes_in(refused(**changes))
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
    (line,) = mistakes_in(refused(**changes))
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


def test_a_long_value_is_shortened(refused):
    (line,) = mistakes_in(refused(name="x " * 500))
    assert len(line) < 200
    assert line.endswith("…)")


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
    assert mistakes_in(refused(text=text)) == [line]


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

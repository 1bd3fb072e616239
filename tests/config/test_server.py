"""The section server: addresses, secrets, paths, threads."""

import os

import pytest

from batchserve.config import Config, ServerConfig
from tests.config.listed import mistakes_in


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


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:80", "localhost:0", "[::1]:65535", "unix:/run/a.sock", "unix:relative.sock"]
)
def test_addresses_to_bind(read, bind):
    assert read(server={"bind": bind}).server.bind == bind


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
    (line,) = mistakes_in(refused(server={"bind": bind}))
    assert line == (
        f"server.bind: write host:port, as in 127.0.0.1:8000, or unix:PATH (it is {bind!r})"
    )


@pytest.mark.parametrize(("megabytes", "size"), [(16, 16 * 1024 * 1024), (0.5, 512 * 1024)])
def test_the_limit_of_bodies_in_bytes(read, megabytes, size):
    assert read(server={"max_body_mb": megabytes}).server.max_body_bytes == size


def test_an_endless_limit_of_bodies_is_refused(refused):
    assert "server.max_body_mb: " in refused(server={"max_body_mb": float("inf")})


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
    (line,) = mistakes_in(refused(server=server))
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
    (line,) = mistakes_in(refused(server=server))
    assert "must have another port than bind" in line


def test_an_address_for_administration_without_administration_is_refused(refused):
    (line,) = mistakes_in(refused(server={"admin_bind": "127.0.0.1:8001"}))
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

"""What Gunicorn is told, and what its master refuses."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.glogging import Logger

from batchserve.config import Config, TlsConfig
from batchserve.config_file import valid_config
from batchserve.errors import ConfigError, StartupError
from batchserve.gunicorn_settings import (
    MULTIPROC_DIR,
    WORKER_CLASS,
    gunicorn_settings,
    refuse_address,
    refuse_bad_certificate,
    refuse_preload_with_cuda,
)
from batchserve.json_log import JsonLogger
from batchserve.lineage import LINEAGE
from batchserve.stores import open_store

CONFIG = """
server: {bind: "unix:x.sock", workers: 3, accesslog: null, errorlog: err.log, drain_seconds: 7,
         grace_seconds: 2.5, max_requests: 500}
models: [{name: m, source: "torchvision:resnet18"}]
"""


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    monkeypatch.setenv(MULTIPROC_DIR, str(tmp_path / "metrics"))
    return {"BATCHSERVE_CONFIG": str(path)}


def test_settings_come_from_the_config(environ):
    settings = gunicorn_settings(environ)
    assert settings["bind"] == ["unix:x.sock"]
    assert settings["workers"] == 3
    assert settings["worker_class"] == WORKER_CLASS == "aiohttp.GunicornUVLoopWebWorker"
    assert settings["accesslog"] is None
    assert settings["errorlog"] == "err.log"
    # Gunicorn kills what has not drained by then.
    assert settings["graceful_timeout"] > 2.5 + 7
    assert settings["max_requests"] == 500
    assert 0 < settings["max_requests_jitter"] < 500


@pytest.mark.parametrize(
    ("device", "has_driver", "preloads"),
    [
        ("cpu", False, True),
        ("auto", False, True),
        ("cuda:1", False, False),
        # Such a model may come over HTTP.
        ("cpu", True, False),
    ],
)
def test_the_master_imports_for_all_workers_unless_they_may_use_cuda(
    environ, monkeypatch, tmp_path, device, has_driver, preloads
):
    driver = tmp_path / "version"
    if has_driver:
        driver.touch()
    monkeypatch.setattr("batchserve.gunicorn_settings.NVIDIA_DRIVER", driver)
    models = f'[{{"name": "m", "source": "torchvision:resnet18", "device": "{device}"}}]'
    settings = gunicorn_settings({**environ, "BATCHSERVE_MODELS": models})
    assert settings["preload_app"] is preloads


def test_the_environment_overrides_the_config(environ):
    settings = gunicorn_settings({**environ, "BATCHSERVE_SERVER__WORKERS": "5"})
    assert settings["workers"] == 5


def test_the_log_is_text_or_json(environ):
    assert gunicorn_settings(environ)["logger_class"] is Logger
    json = gunicorn_settings({**environ, "BATCHSERVE_SERVER__LOG_FORMAT": "json"})
    assert json["logger_class"] is JsonLogger


def test_administration_and_encryption_reach_gunicorn(environ, tmp_path):
    settings = gunicorn_settings(
        {
            **environ,
            "BATCHSERVE_SERVER__ADMIN_TOKEN": "correct-horse-battery",
            "BATCHSERVE_SERVER__ADMIN_BIND": "127.0.0.1:8001",
            "BATCHSERVE_SERVER__TLS": "{cert: cert.pem, key: key.pem}",
        }
    )
    assert settings["bind"] == ["unix:x.sock", "127.0.0.1:8001"]
    assert settings["certfile"] == str(tmp_path / "cert.pem")
    assert settings["keyfile"] == str(tmp_path / "key.pem")
    # The workers read it from the environment, as their master did.
    token = valid_config(os.environ).server.admin_token
    assert token is not None
    assert token.get_secret_value() == "correct-horse-battery"


def test_a_worker_that_is_gone_is_forgotten(environ, tmp_path):
    environ |= {"BATCHSERVE_SERVER__ADMIN_TOKEN": "correct-horse-battery"}
    store = open_store(str(tmp_path / "batchserve-state.db"))
    for pid in (17, 18):
        store.report(f"{LINEAGE.server}.{pid}", "ready", 1000)
    gunicorn_settings(environ)["child_exit"](None, SimpleNamespace(pid=17, batchserve_place=0))
    assert store.read().reports.keys() == {f"{LINEAGE.server}.18"}
    store.close()


def test_a_worker_that_cannot_be_forgotten_now_is_so_later(environ, caplog):
    environ |= {
        "BATCHSERVE_SERVER__ADMIN_TOKEN": "correct-horse-battery",
        "BATCHSERVE_SERVER__STATE": "redis://127.0.0.1:1/0",
    }
    gunicorn_settings(environ)["child_exit"](None, SimpleNamespace(pid=17, batchserve_place=0))
    assert "Redis at 127.0.0.1:1/0 cannot be used" in caplog.text


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_is_none_is_refused(tmp_path, content):
    if content:
        (tmp_path / "cert.pem").write_text(content)
    tls = TlsConfig(cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem"))
    with pytest.raises(StartupError, match=r"server\.tls: .*cert\.pem and .* cannot be used"):
        refuse_bad_certificate(tls)


def test_a_wrong_config_is_refused(environ):
    with pytest.raises(ConfigError, match="did you mean 'workers'"):
        gunicorn_settings({**environ, "BATCHSERVE_SERVER__WORKER": "5"})


def test_workers_share_a_metrics_folder_of_this_server(environ, monkeypatch, tmp_path):
    monkeypatch.delenv(MULTIPROC_DIR)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gunicorn_settings(environ)
    folder = Path(os.environ[MULTIPROC_DIR])
    assert folder.is_dir()
    # Reading the config again, on SIGHUP, must not lose the counts.
    gunicorn_settings(environ)
    assert os.environ[MULTIPROC_DIR] == str(folder)


@pytest.mark.parametrize(
    ("device", "has_driver", "refused"),
    [
        ("cuda", False, True),
        ("cuda:1", True, True),
        ("auto", True, True),
        ("auto", False, False),
        ("cpu", True, False),
    ],
)
def test_preloading_is_refused_where_a_worker_will_use_cuda(configure, device, has_driver, refused):
    config: Config = configure(device=device)
    if refused:
        with pytest.raises(StartupError, match=f"model tiny: device {device} is CUDA"):
            refuse_preload_with_cuda(config, has_driver=has_driver)
    else:
        refuse_preload_with_cuda(config, has_driver=has_driver)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_an_address_in_use_is_refused(tmp_path, family):
    path = str(tmp_path / "x.sock")
    with socket.socket(family) as taken:
        taken.bind(path if family is socket.AF_UNIX else ("127.0.0.1", 0))
        taken.listen()
        bind = f"unix:{path}" if family is socket.AF_UNIX else f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartupError, match="is in use; stop the server there"):
            refuse_address(bind)
    # What is left behind is in nobody's use.
    refuse_address(bind)


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("127.0.0.256:80", "cannot be bound"),
        ("unix:/nowhere/x.sock", "there is no folder /nowhere; make it"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_in_a_line(bind, message):
    with pytest.raises(StartupError, match=message) as caught:
        refuse_address(bind)
    assert len(str(caught.value).splitlines()) == 1

"""Gunicorn's settings, from our configuration; and what its master does for us.

The master imports what all workers need, and they share its memory; but it runs nothing of torch
and loads no model, because neither CUDA nor OpenMP's threads survive a fork. Where a worker may use
CUDA, even the import waits until after it.
"""

import atexit
import errno
import logging
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from batchserve import gunicorn_hooks, systemd
from batchserve.config import Config, ModelConfig, ServerConfig, TlsConfig
from batchserve.config_file import ENV_VALID, config_path, read_config, valid_config
from batchserve.errors import ConfigError, StartupError
from batchserve.json_log import JsonLogger
from batchserve.lineage import LINEAGE
from batchserve.memory import use_huge_pages
from batchserve.stores import open_store
from batchserve.stores.base import StoreError

MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
OWN_FOLDER = "batchserve-metrics-"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
WORKER_CLASS = "aiohttp.GunicornUVLoopWebWorker"
# What systemd and an older master (SIGUSR2) hand over instead of an address to bind.
INHERITED_SOCKETS = ("LISTEN_FDS", "GUNICORN_FD")
# A worker that neither turns its loop nor is loading for so long is replaced.
SILENCE_S = 120
# What a stop takes beyond what the config says.
STOP_S = 5

logger = logging.getLogger("gunicorn.error")


def gunicorn_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return Gunicorn's settings for the config that the environment names.

    Raises:
        ConfigError: it is wrong, and there is no earlier one.
    """
    config = _read_or_keep(environ)
    server = config.server
    use_huge_pages()
    _share_metrics()
    tls = server.tls
    return {
        "bind": [server.bind, *([server.admin_bind] if server.admin_bind else [])],
        "certfile": tls and tls.cert,
        "keyfile": tls and tls.key,
        "workers": server.workers,
        "worker_class": WORKER_CLASS,
        "accesslog": server.accesslog,
        "errorlog": server.errorlog,
        "logger_class": JsonLogger if server.log_format == "json" else Logger,
        # A worker starts in half the time, and takes a tenth of the memory beside its models.
        "preload_app": not (NVIDIA_DRIVER.exists() or model_with_cuda(config, has_driver=False)),
        "timeout": SILENCE_S,
        "graceful_timeout": stop_seconds(server),
        "max_requests": server.max_requests or 0,
        # Not all workers at the same time.
        "max_requests_jitter": (server.max_requests or 0) // 10,
        # It would be one for all servers of a user, and nothing here needs it.
        "control_socket_disable": True,
        "on_starting": lambda arbiter: _on_starting(config, preload=arbiter.cfg.preload_app),
        "on_exit": lambda _arbiter: _remove_metrics(),
        "when_ready": gunicorn_hooks.when_ready,
        "on_reload": gunicorn_hooks.on_reload,
        "pre_fork": gunicorn_hooks.pre_fork,
        "post_fork": gunicorn_hooks.post_fork,
        "worker_exit": gunicorn_hooks.worker_exit,
        "child_exit": lambda arbiter, worker: _forget(server, arbiter, worker),
    }


def stop_seconds(server: ServerConfig) -> int:
    """Return how long a stop may take; whoever kills the server should wait for longer."""
    # aiohttp waits for the handlers twice: to finish, and then to be cancelled.
    return int(server.grace_seconds + 2 * server.drain_seconds) + STOP_S


class Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn as `batchserve serve` runs it; SIGHUP reads the config again."""

    def load_config(self) -> None:
        for name, value in gunicorn_settings(os.environ).items():
            self.cfg.set(name, value)

    def load(self) -> Callable[[], Any]:
        # Before or after the fork: the application imports torch.
        from batchserve.app import create_app  # noqa: PLC0415

        return create_app


def _read_or_keep(environ: Mapping[str, str]) -> Config:
    """Read the config; on a reload, keep the earlier one if the new one is wrong.

    What is valid goes into the environment, for the workers: the file may change under them.
    """
    try:
        config = read_config(config_path(environ), environ)
    except ConfigError as error:
        if ENV_VALID not in environ:
            raise
        logger.error("the configuration stays as it was.\n%s", error)  # noqa: TRY400
        return valid_config(environ)
    os.environ[ENV_VALID] = config.model_dump_json(exclude_unset=True, context={"reveal": True})
    return config


def _on_starting(config: Config, *, preload: bool) -> None:
    systemd.take_over()
    try:
        if preload:
            refuse_preload_with_cuda(config, has_driver=NVIDIA_DRIVER.exists())
        if not any(variable in os.environ for variable in INHERITED_SOCKETS):
            for bind in filter(None, (config.server.bind, config.server.admin_bind)):
                refuse_address(bind)
        if config.server.tls is not None:
            refuse_bad_certificate(config.server.tls)
    except StartupError as error:
        # Gunicorn prints this one without a traceback.
        raise RuntimeError(str(error)) from None


def refuse_preload_with_cuda(config: Config, *, has_driver: bool) -> None:
    """Refuse to import the application before the fork where a worker will use CUDA.

    Raises:
        StartupError: see https://github.com/pytorch/pytorch/issues/68861.
    """
    model = model_with_cuda(config, has_driver=has_driver)
    if model is not None:
        raise StartupError(
            f"model {model.name}: device {model.device} is CUDA, which does not survive the "
            f"fork that --preload does; start without --preload"
        )


def model_with_cuda(config: Config, *, has_driver: bool) -> ModelConfig | None:
    """Return the first model that will use CUDA.

    Args:
        config: whose models tell their device.
        has_driver: whether `auto` will find an NVIDIA GPU.
    """
    return next(
        (
            model
            for model in config.models
            if model.device.startswith("cuda") or (model.device == "auto" and has_driver)
        ),
        None,
    )


def refuse_address(bind: str) -> None:
    """Refuse an address that cannot be had; Gunicorn would try for seconds, or take it away.

    Raises:
        StartupError: with what to do.
    """
    if bind.startswith("unix:"):
        _refuse_path(Path(bind.removeprefix("unix:")))
    else:
        host, _, port = bind.rpartition(":")
        _refuse_port(host, int(port))


def _refuse_path(path: Path) -> None:
    if not path.parent.is_dir():
        raise StartupError(f"unix:{path}: there is no folder {path.parent}; make it")
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        raise _in_use(f"unix:{path}", "--bind unix:PATH")


def _refuse_port(host: str, port: int) -> None:
    bind = f"{host}:{port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As Gunicorn's, so that what a stopped server has left does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _in_use(bind, f"--bind {host}:{port + 1}") from None
            raise StartupError(f"{bind} cannot be bound: {error.strerror or error}") from None


def _in_use(bind: str, advice: str) -> StartupError:
    return StartupError(f"{bind} is in use; stop the server there, or take another: {advice}")


def refuse_bad_certificate(tls: TlsConfig) -> None:
    """Refuse a certificate and a key that cannot be used, before every worker fails at them.

    Raises:
        StartupError: with what to do.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        raise StartupError(
            f"server.tls: {tls.cert} and {tls.key} cannot be used: {error}; they must be PEM "
            f"files, the key without a passphrase, and belong together"
        ) from error


def _share_metrics() -> None:
    """Make the folder in which workers share their metrics, unless the user names one.

    prometheus_client looks for it when it is imported.
    """
    if MULTIPROC_DIR in os.environ:
        return
    folder = os.environ[MULTIPROC_DIR] = tempfile.mkdtemp(prefix=OWN_FOLDER)
    master = os.getpid()

    def clean_up() -> None:
        # Workers inherit this, and end before their master does.
        if os.getpid() == master:
            shutil.rmtree(folder, ignore_errors=True)

    # Gunicorn does not always get as far as its own hook, `on_exit`.
    atexit.register(clean_up)


def _forget(server: ServerConfig, arbiter: Any, worker: Any) -> None:
    """In the master, of a worker that is no more, however it ended."""
    gunicorn_hooks.child_exit(arbiter, worker)
    _forget_gauges(worker.pid)
    if server.admin_token is None:
        return
    try:
        store = open_store(server.state)
        store.forget(f"{LINEAGE.server}.{worker.pid}")
        store.close()
    except StoreError as error:
        # It is forgotten a little later.
        logger.warning("%s", error)


def _forget_gauges(pid: int) -> None:
    from prometheus_client import multiprocess  # noqa: PLC0415 - after the folder is named

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _remove_metrics() -> None:
    folder = Path(os.environ[MULTIPROC_DIR])
    if folder.name.startswith(OWN_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)

"""Shared by all tests: models small and real, the application, a detector of blocking calls."""

import asyncio
import io
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import skimage.data
import torch
from aiohttp.test_utils import TestClient
from blockbuster import BlockBuster, blockbuster_ctx
from PIL import Image

from batchserve.app import build_app
from batchserve.config import Config
from batchserve.config_file import read_config
from batchserve.testing.serving import DoorServer
from tests.ports import free_port

# pytest-asyncio looks for a current loop, which would make one that nobody closes.
asyncio.set_event_loop(None)

ROOT = Path(__file__).parent.parent

MakeClient = Callable[..., Awaitable[TestClient[Any, Any]]]


def pytest_configure() -> None:
    """Share the cores out among the processes of `pytest -n`."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.startswith("BATCHSERVE_"):
            monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail on blocking calls in the event loop, made by our own code."""
    with blockbuster_ctx(scanned_modules=["batchserve"]) as detector:
        yield detector


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    """Return a function that makes a valid config with one `tensor` model, changed as asked."""

    def make(server: dict[str, Any] | None = None, **model) -> Config:
        described = {
            "name": "tiny",
            "source": "tests.models:tiny",
            "device": "cpu",
            "batching": {"max_batch_size": 4},
            **model,
        }
        return Config.model_validate(
            {"server": server or {}, "models": [described]}, context={"folder": tmp_path}
        )

    return make


@pytest.fixture
def serve(aiohttp_client, configure) -> MakeClient:
    """Return a function that serves a config, or `configure`'s with changes, in this process."""

    async def start(config: Config | None = None, **changes) -> TestClient[Any, Any]:
        app = await build_app(config or configure(**changes))
        client: TestClient[Any, Any] = await aiohttp_client(DoorServer(app))
        return client

    return start


@pytest.fixture(scope="session")
def shipped_config() -> Config:
    """The config that `make serve` serves."""
    return read_config(ROOT / "config.yaml", {})


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis, on a port of its own."""
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    except FileNotFoundError:
        message = "redis-server is not installed (Debian: apt-get install redis-server)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)
    with client:
        give_up_s = time.monotonic() + 30
        while time.monotonic() < give_up_s:
            with suppress(redis.ConnectionError):
                client.ping()
                break
        yield url
    process.terminate()
    process.wait()


def photo(name: str, kind: str = "PNG") -> bytes:
    """Return one of scikit-image's photos as an image file."""
    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, kind)
    return file.getvalue()

"""A config, served in the process of a test."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from batchserve.app import build_app
from batchserve.config import Config
from batchserve.config_file import read_config

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def serving(config: str | Path | Mapping[str, Any]) -> AsyncIterator[Client]:
    """Serve a config on a free port of this machine, and yield a client that talks to it.

    The requests are real, and so are batching and the forward pass; Gunicorn is not there.

    Args:
        config: the path of a YAML file, beside which modules are found as the server finds them;
            or the same keys as a mapping. The environment changes nothing.

    Raises:
        ConfigError, LoadError: as the server does when it starts.
        ValidationError: pydantic's, of a mapping.
    """
    if isinstance(config, Mapping):
        async with _client_of(Config.model_validate(config)) as client:
            yield client
        return
    folder, valid = await asyncio.to_thread(_read, Path(config))
    with _importable(folder):
        async with _client_of(valid) as client:
            yield client


@asynccontextmanager
async def _client_of(config: Config) -> AsyncIterator[Client]:
    async with TestClient(TestServer(await build_app(config))) as client:
        yield client


def _read(path: Path) -> tuple[Path, Config]:
    return path.resolve().parent, read_config(path, {})


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))

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
from batchserve.web.access_log import AccessLog
from batchserve.web.door import Door

Client = TestClient[web.Request, web.Application]


class DoorServer(TestServer):
    """Serves an application as a worker does, fast path and all.

    Args:
        app: of `build_app`.
        access_log: None: there is none.
    """

    __test__ = False

    def __init__(self, app: web.Application, access_log: AccessLog | None = None) -> None:
        super().__init__(app)
        self._access_log = access_log

    async def _make_runner(self, **options: Any) -> web.AppRunner:
        return Door(self.app, self._access_log, **options)


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
    async with TestClient(DoorServer(await build_app(config))) as client:
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
